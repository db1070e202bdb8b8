"""The secure sum against a plain sum, against AES-CTR alone and against the primitives of Flower's own SecAgg+.

One process, CPU seconds (user + system) of one core; one organization drops out after the key exchange where the
threshold allows it. The client column is one organization's whole round, the server column the whole server; making the
vectors and sending bytes are not counted. Each figure is the smallest of `--repeat` runs.

    python benchmarks/secagg.py [--parameters 1000000] [--n 4 10] [--repeat 3] [--quick] [--json]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from cotune.secagg import masking
from cotune.secagg.admission import Expected
from cotune.secagg.coordinator import Coordinator
from cotune.secagg.encoding import Encoding
from cotune.secagg.journal import FileJournal
from cotune.secagg.organization import Organization
from cotune.secagg.plan import Plan, least_survivors, least_threshold
from cotune.secagg.record import genesis
from cotune.secagg.roster import Roster
from cotune.secagg.wire import raw_public
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

CLIP = 1.0
LANE_BITS = 21
RUN = bytes(16)
T = TypeVar("T")


@dataclass
class Cost:
    """CPU seconds of one client and of the server, bytes that one client sends up."""

    client: float = 0.0
    server: float = 0.0
    upload: int = 0


@dataclass
class Result:
    """One row: ratio_to_plain_sum compares client + server, ratio_to_aes the client alone."""

    protocol: str
    parameters: int
    n: int
    client_cpu_s: float
    server_cpu_s: float
    bytes_per_parameter: float
    ratio_to_plain_sum: float
    ratio_to_aes: float


class Stopwatch:
    """Adds up CPU seconds of the calls given to it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, call: Callable[..., T], *arguments: object) -> T:
        start = time.process_time()
        value = call(*arguments)
        self.seconds += time.process_time() - start
        return value


def dropouts(n: int) -> int:
    """How many organizations this benchmark lets drop out."""
    return min(1, n - least_survivors(n))


def vector_of(index: int, parameters: int) -> NDArray[np.float32]:
    """One organization's update, float32 [parameters]."""
    return np.random.default_rng(index).normal(0, 0.1, parameters).astype(np.float32)


def plain(parameters: int, n: int) -> Cost:
    """Everyone sends float32, the server adds."""
    client, server, upload = Stopwatch(), Stopwatch(), 0
    total = np.zeros(parameters, dtype=np.float32)
    for index in range(n - dropouts(n)):
        raw = client(vector_of(index, parameters).tobytes)
        upload = len(raw)
        server(lambda raw=raw: np.add(total, np.frombuffer(raw, np.float32), out=total))
    return Cost(client.seconds / (n - dropouts(n)), server.seconds, upload)


def aes(parameters: int, n: int) -> Cost:
    """The key streams alone: n at the client, two for each survivor at the server. No protocol can do with less."""
    size = Encoding(((parameters, CLIP),), n, LANE_BITS).words

    def streams(count: int) -> None:
        buffer = masking.scratch()
        for _ in range(count):
            stream = masking.KeyStream(bytes(32))
            for start in range(0, size, masking.CHUNK_WORDS):
                stream.fill(buffer, min(masking.CHUNK_WORDS, size - start) * masking.WORD_BYTES)

    client, server = Stopwatch(), Stopwatch()
    client(streams, n)
    server(streams, (1 + dropouts(n)) * (n - dropouts(n)))
    return Cost(client.seconds, server.seconds, size * masking.WORD_BYTES)


class Consortium:
    """One honest round of cotune, timed on both sides."""

    def __init__(self, parameters: int, n: int, folder: Path) -> None:
        self.identities = [Ed25519PrivateKey.generate() for _ in range(n)]
        key = Ed25519PrivateKey.generate()
        self.roster = Roster("benchmark", 1, tuple(map(raw_public, self.identities)), raw_public(key))
        self.encoding = Encoding(((parameters, CLIP),), n, LANE_BITS)
        head, zero = genesis(RUN, self.roster), bytes(32)
        terms = (self.roster.hash, self.roster.indices, least_threshold(n), least_survivors(n), zero, zero, zero)
        plan = Plan(RUN, 1, 0, *terms, self.encoding, 2, head)
        self.expected = Expected(RUN, (-1, -1), zero, zero, zero, parameters, self.encoding, head, 1)
        self.journals = [FileJournal(folder / str(index)) for index in range(n)]
        self.client, self.server, self.here = Stopwatch(), Stopwatch(), n - dropouts(n)
        self.coordinator = self.server(Coordinator, self.roster, plan, key)
        self.sent = 0

    def begin(self, index: int) -> Organization:
        """P0 of one organization."""
        message, journal = self.coordinator.plan_message, self.journals[index]
        return Organization.begin(self.roster, index, self.identities[index], message, self.expected, journal)

    def play(self) -> Cost:
        """All phases; the last organization leaves before its upload where it may."""
        server, coordinator, n = self.server, self.coordinator, self.roster.n
        organizations = [self.client(self.begin, index) for index in range(n)]
        for i, organization in enumerate(organizations):
            self.count(server(coordinator.add_advert, i, organization.advert), organization.advert)
        adverts = server(coordinator.close_adverts)
        for i, organization in enumerate(organizations):
            message = self.client(organization.share, adverts)
            self.count(server(coordinator.add_shares, i, message), message)
        inboxes = server(coordinator.close_shares)
        client = self.client.seconds / n
        self.client.seconds = 0.0
        organizations = organizations[: self.here]
        exact = np.zeros(self.encoding.dimension)
        for i, organization in enumerate(organizations):
            vector = vector_of(i, self.encoding.dimension)
            exact += vector
            header, words = self.client(organization.mask, inboxes[i], vector)
            self.count(server(coordinator.add_upload, i, header, words), header + bytes(words.nbytes))
        survivors = server(coordinator.close_uploads)
        for i, organization in enumerate(organizations):
            message = self.client(organization.survive, survivors)
            self.count(server(coordinator.add_survival, i, message), message)
        quorum = server(coordinator.close_survival)
        for i, organization in enumerate(organizations):
            message = self.client(organization.unmask, quorum)
            self.count(server(coordinator.add_reveal, i, message), message)
        outcome = server(coordinator.result)
        if np.abs(outcome.values - exact).max() > self.here * CLIP / self.encoding.levels:
            raise SystemExit("the secure sum is not the sum")
        return Cost(client + self.client.seconds / self.here, server.seconds, self.sent // self.here)

    def count(self, accepted: bool, message: bytes) -> None:
        """Bytes that went up, all organizations together."""
        if not accepted:
            raise SystemExit(f"an honest message was rejected: {self.coordinator.rejections[-1]}")
        self.sent += len(message)


def cotune(parameters: int, n: int) -> Cost:
    """The whole protocol with signatures, journals on disk and checks."""
    with tempfile.TemporaryDirectory() as folder:
        return Consortium(parameters, n, Path(folder)).play()


def flower(parameters: int, n: int) -> Cost:
    """Flower's SecAgg+ in its own order and functions: quantize, mask, add, unmask; no key exchange, no shares.

    Settings are Flower's defaults: 22-bit quantization, 32-bit modulus. Masks are from numpy's MT19937.
    """
    clip, target, modulus = 8.0, 1 << 22, 1 << 32
    shapes: list[tuple[int, ...]] = [(), (parameters,)]
    here, client, server = n - dropouts(n), Stopwatch(), Stopwatch()

    def seed(one: int, other: int) -> bytes:
        return bytes([min(one, other), max(one, other)]) + bytes(30)

    def mask(vector: NDArray[np.float32], index: int) -> list[bytes]:
        words = quantize(arithmetic.parameters_multiply([vector], 1.0), clip, target)
        words = arithmetic.factor_combine(target, words)
        words = arithmetic.parameters_addition(words, pseudo_rand_gen(seed(index, index), modulus, shapes))
        for peer in (peer for peer in range(n) if peer != index):
            change = arithmetic.parameters_addition if index > peer else arithmetic.parameters_subtraction
            words = change(words, pseudo_rand_gen(seed(index, peer), modulus, shapes))
        return [ndarray_to_bytes(part) for part in arithmetic.parameters_mod(words, modulus)]

    def unmask(total: list[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        for index in range(here):
            total = arithmetic.parameters_subtraction(total, pseudo_rand_gen(seed(index, index), modulus, shapes))
            for gone in range(here, n):
                total = arithmetic.parameters_addition(total, pseudo_rand_gen(seed(index, gone), modulus, shapes))
        _, vector = arithmetic.factor_extract(arithmetic.parameters_mod(total, modulus))
        values: list[NDArray[np.float64]] = dequantize(vector, clip, target)
        return values

    total: list[NDArray[np.int64]] = [np.zeros(shape, dtype=np.int64) for shape in shapes]
    upload = 0
    for index in range(here):
        raw = client(mask, vector_of(index, parameters), index)
        upload = sum(map(len, raw))
        parts = server(lambda raw=raw: [bytes_to_ndarray(part) for part in raw])
        total = server(arithmetic.parameters_addition, total, parts)
    server(unmask, total)
    return Cost(client.seconds / here, server.seconds, upload)


PROTOCOLS = {"plain": plain, "aes": aes, "cotune": cotune, "flower_secagg": flower}


def measure(parameters: int, n: int, repeat: int) -> list[Result]:
    """All protocols on the same vectors."""
    costs = {}
    for name, protocol in PROTOCOLS.items():
        runs = [protocol(parameters, n) for _ in range(repeat)]
        costs[name] = Cost(min(r.client for r in runs), min(r.server for r in runs), runs[0].upload)
    base, floor = costs["plain"], costs["aes"]
    return [
        Result(
            protocol=name,
            parameters=parameters,
            n=n,
            client_cpu_s=round(cost.client, 5),
            server_cpu_s=round(cost.server, 5),
            bytes_per_parameter=round(cost.upload / parameters, 3),
            ratio_to_plain_sum=round((cost.client + cost.server) / (base.client + base.server), 2),
            ratio_to_aes=round(cost.client / floor.client, 3),
        )
        for name, cost in costs.items()
    ]


def show(results: list[Result]) -> None:
    """A table for people."""
    table = Table(title="one round, CPU seconds of one core, one dropout where the threshold allows it")
    for column in ("parameters", "n", "protocol", "client s", "server s", "bytes/param up", "x plain sum", "x AES"):
        table.add_column(column, justify="left" if column == "protocol" else "right")
    for row in results:
        head = (f"{row.parameters:,}", str(row.n), row.protocol, f"{row.client_cpu_s:.4f}", f"{row.server_cpu_s:.4f}")
        ratios = (f"{row.bytes_per_parameter:.2f}", f"{row.ratio_to_plain_sum:.1f}", f"{row.ratio_to_aes:.2f}")
        table.add_row(*head, *ratios, end_section=row.protocol == "flower_secagg")
    Console().print(table)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--n", type=int, nargs="+", default=[4, 10])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smoke test: 100,000 parameters, n = 4, once")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    if options.quick:
        options.parameters, options.n, options.repeat = 100_000, [4], 1
    measure(10_000, 4, 1)  # imports and caches
    results = [row for n in options.n for row in measure(options.parameters, n, options.repeat)]
    if options.json:
        print(json.dumps({"results": [asdict(row) for row in results]}))
    else:
        show(results)


if __name__ == "__main__":
    main()
