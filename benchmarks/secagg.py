"""The secure sum against Flower's SecAgg+, TenSEAL's CKKS, a plain sum, and AES-CTR alone.

One process, CPU seconds (user + system); one organization drops out after the key exchange where the threshold allows
it. The client columns are one organization's whole round, the server column the whole server; making the vectors and
sending bytes are not counted. Each figure is the smallest of `--repeat` runs. `x AES` is the client's time over that of
the n key streams of AES-256-CTR by OpenSSL and nothing else. Where the processor has vector AES, cotune makes its
streams by a compiled loop that is faster than OpenSSL's counter mode, so the ratio may be below one; cotune_openssl,
there only with such a processor, is the same without compiled loops. The peak is what Python and numpy allocate while
the client makes its upload, upload included.

Some rows are measured on a part and scaled, see `sums/flower.py` and `sums/ckks.py`; cotune's rows never are. The rows
of TenSEAL need the extra `ckks`. The last lines are wall seconds of encoding and masking with one and two threads.

    python benchmarks/secagg.py [--parameters 1000000 10000000] [--n 4 10 30 100] [--repeat 2] [--hybrid] [--quick]
        [--json]
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec

from cotune.secagg import kernel
from rich.console import Console
from rich.table import Table
from sums.cost import Cost
from sums.double_mask import cotune, cotune_hybrid, cotune_openssl, wall_seconds
from sums.floors import aes_ctr, plain
from sums.flower import flower_secagg

Protocol = Callable[[int, int], Cost]


@dataclass
class Row:
    """One line of the table; `ratio_to_aes` is of the client."""

    protocol: str
    parameters: int
    n: int
    client_cpu_s: float
    server_cpu_s: float
    bytes_per_parameter: float
    client_peak_bytes: int
    ratio_to_aes: float


def protocols(hybrid: bool) -> dict[str, Protocol]:
    """All that can be measured here."""
    found: dict[str, Protocol] = {"plain": plain, "aes_ctr": aes_ctr, "cotune": cotune}
    if kernel.add_stream or kernel.hash_pair:
        found["cotune_openssl"] = cotune_openssl
    if hybrid:
        found["cotune_hybrid"] = cotune_hybrid
    found["flower_secagg"] = flower_secagg
    if find_spec("tenseal"):
        from sums.ckks import tenseal_ckks

        found["tenseal_ckks"] = tenseal_ckks
    else:
        print("tenseal_ckks is left out: pip install 'cotune[ckks]'", file=sys.stderr)
    return found


def measure(chosen: dict[str, Protocol], parameters: int, n: int, repeat: int) -> list[Row]:
    """One row for each protocol; they take turns."""
    runs = [{name: protocol(parameters, n) for name, protocol in chosen.items()} for _ in range(repeat)]
    floor = min(run["aes_ctr"].client for run in runs)
    rows = []
    for name in chosen:
        costs = [run[name] for run in runs]
        client, server = min(cost.client for cost in costs), min(cost.server for cost in costs)
        size, peak = costs[0].upload / parameters, min(cost.peak for cost in costs)
        rows.append(Row(name, parameters, n, round(client, 5), round(server, 5), round(size, 3), peak, client / floor))
        rows[-1].ratio_to_aes = round(rows[-1].ratio_to_aes, 3)
    return rows


def show(rows: list[Row]) -> None:
    """A table for people."""
    table = Table(title="one round, CPU seconds, one dropout where the threshold allows it")
    heads = ("parameters", "n", "protocol", "client s", "server s", "B/param", "peak MB", "x AES")
    for head in heads:
        table.add_column(head, justify="left" if head == "protocol" else "right", no_wrap=head in heads[:3])
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        numbers = (row.client_cpu_s, row.server_cpu_s, row.bytes_per_parameter, row.client_peak_bytes / 1e6)
        cells = [
            text.format(value) for text, value in zip(("{:.4f}", "{:.4f}", "{:.2f}", "{:.1f}"), numbers, strict=True)
        ]
        last = after is None or (after.parameters, after.n) != (row.parameters, row.n)
        table.add_row(
            f"{row.parameters:,}", str(row.n), row.protocol, *cells, f"{row.ratio_to_aes:.2f}", end_section=last
        )
    Console().print(table)


def show_workers(parameters: int, n: int, repeat: int) -> None:
    """Wall seconds of encoding and masking; on stderr, apart from the results."""
    seconds = [min(wall_seconds(parameters, n, workers) for _ in range(repeat)) for workers in (1, 2)]
    text = f"encode and mask {parameters:,} parameters, n = {n}: {seconds[0]:.3f} s wall with one worker"
    print(f"{text}, {seconds[1]:.3f} s with two", file=sys.stderr)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--parameters", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--n", type=int, nargs="+", default=[4, 10, 30, 100])
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--hybrid", action="store_true", help="also suite 2, with the post-quantum keys")
    parser.add_argument("--quick", action="store_true", help="a smoke test: 100,000 parameters, n = 4, once")
    parser.add_argument("--json", action="store_true", help="a JSON list instead of the table")
    options = parser.parse_args()
    if options.quick:
        options.parameters, options.n, options.repeat = [100_000], [4], 1
    chosen = protocols(options.hybrid)
    measure(chosen, 10_000, 4, 1)  # imports and caches
    cases = [(parameters, n) for parameters in options.parameters for n in options.n]
    rows = [row for case in cases for row in measure(chosen, *case, options.repeat)]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        show(rows)
    for case in cases:
        show_workers(*case, options.repeat)


if __name__ == "__main__":
    main()
