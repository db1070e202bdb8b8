"""What it costs a member to compute each adapter itself and to spot-check each sum, beside being handed an adapter.

After one whole secured round (real state machines, signatures, masks) a member gets the record, the bare sum and the
pieces that it asked for. Counted are its CPU seconds (verifying the record, holding the sum and the limits of its norms
against it, recomputing the pieces, the strategy's step with Adam, hashing the model), the bytes that come down to it,
and the coordinator's CPU seconds to cut out the pieces for all members. Beside them: the bytes of an adapter in
float32, which is what plain federated learning hands down, and the CPU seconds of the member's whole secured upload in
the same run.

    python benchmarks/following.py [--parameters 1000000 10000000] [--n 4 10 30] [--fraction 0.1] [--probability 0.99]
        [--quick] [--json]
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cotune.adapter.part import Part
from cotune.secagg import merkle
from cotune.secagg.control import CONTROL_WORDS
from cotune.secagg.limits import NormLimits, check_values
from cotune.secagg.record import verify
from cotune.secagg.spot_checks import check_pieces, check_sum, choose, decode_pieces, encode_pieces, pieces_for
from cotune.secagg.suites import CLASSIC
from cotune.strategies.dp_fedsgd import DPFedSGD
from cotune.strategies.model import Model
from rich.console import Console
from rich.table import Table
from sums.double_mask import CLIP, RUN, Consortium

RULE = DPFedSGD("adam", 0.01, 0.9, 0.99, 1e-8, 0.7)


@dataclass
class Row:
    """One line."""

    parameters: int
    n: int
    pieces: int
    checked: int
    upload_cpu_s: float
    sum_cpu_s: float
    step_cpu_s: float
    pieces_cpu_s: float
    server_cpu_s: float
    sum_megabytes: float
    pieces_megabytes: float
    adapter_megabytes: float
    down_over_adapter: float
    member_over_upload: float


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """CPU seconds and result."""
    start = time.process_time()
    result = work(*arguments)
    return time.process_time() - start, result


def measure(parameters: int, n: int, fraction: float, probability: float) -> Row:
    """One round, then one member's part in what follows."""
    with tempfile.TemporaryDirectory() as folder:
        consortium = Consortium(parameters, n, CLASSIC, Path(folder), keep=True)
        upload = consortium.play().client
    outcome, roster = consortium.outcome, consortium.roster
    pieces = merkle.pieces(len(outcome.words))
    count = pieces_for(fraction, probability, pieces)

    def accept() -> Any:
        verified = verify(outcome.record, roster, RUN, consortium.expected.prev_head)
        check_sum(verified, outcome.words)
        encoding, survivors = verified.plan.encoding, verified.survivors
        values = encoding.decode(outcome.words[CONTROL_WORDS:], len(survivors))
        check_values(encoding, values, survivors, NormLimits((1e6,) * n, CLIP, parameters))
        return verified, values

    sum_seconds, (verified, values) = timed(accept)
    numbers = choose(bytes(32), outcome.head, pieces, count)

    def cut() -> Any:
        kept = {
            index: (words, merkle.paths(merkle.piece_leaves(words, verified.ctx2, index)))
            for index, words in consortium.uploads.items()
        }
        for _ in range(n):
            handed = encode_pieces(numbers, kept)
        return handed

    server_seconds, (body, words) = timed(cut)

    def check() -> None:
        check_pieces(verified, numbers, decode_pieces(body, words, verified, numbers), outcome.words)

    pieces_seconds, _ = timed(check)
    adapter = np.zeros(parameters, np.float32)

    def step() -> bytes:
        part = Part(((0, parameters),))
        moved = Model(*RULE.apply(adapter, RULE.start(parameters), part, values, 100.0, n))
        return hashlib.sha256(moved.encode()).digest()

    step_seconds, _ = timed(step)
    down, shown = outcome.words.nbytes + len(outcome.record), words.nbytes + len(body)
    member = sum_seconds + step_seconds + pieces_seconds
    return Row(
        parameters,
        n,
        pieces,
        count,
        *(round(value, 4) for value in (upload, sum_seconds, step_seconds, pieces_seconds, server_seconds)),
        *(round(value / 1e6, 3) for value in (down, shown, 4 * parameters)),
        round((down + shown) / (4 * parameters), 3),
        round(member / upload, 2),
    )


def show(rows: list[Row]) -> None:
    """A table for people."""
    table = Table(title="after a round: CPU seconds of one member, MB down to it")
    names = list(asdict(rows[0]))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:,}" for value in asdict(row).values()))
    Console(width=200).print(table)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--parameters", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--n", type=int, nargs="+", default=[4, 10, 30])
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--probability", type=float, default=0.99)
    parser.add_argument("--quick", action="store_true", help="a smoke test: 100,000 parameters, n = 4")
    parser.add_argument("--json", action="store_true", help="a JSON list instead of the table")
    options = parser.parse_args()
    if options.quick:
        options.parameters, options.n = [100_000], [4]
    cases = [(parameters, n) for parameters in options.parameters for n in options.n]
    rows = [measure(*case, options.fraction, options.probability) for case in cases]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        show(rows)


if __name__ == "__main__":
    main()
