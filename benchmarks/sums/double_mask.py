"""cotune's own secure sum: the real state machines over bytes, with signatures, journals on disk and all checks."""

import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
from cotune.secagg import kernel, masking
from cotune.secagg.admission import Expected
from cotune.secagg.coordinator import Coordinator, RoundSum
from cotune.secagg.encoding import Encoding
from cotune.secagg.identity import new_identity, raw_public
from cotune.secagg.journal import FileJournal
from cotune.secagg.organization import Organization
from cotune.secagg.plan import Plan, least_survivors, least_threshold
from cotune.secagg.record import genesis
from cotune.secagg.roster import Roster
from cotune.secagg.suites import CLASSIC, HYBRID, Suite

from .cost import Cost, Stopwatch, dropouts, vector_of, with_peak

CLIP = 1.0
LANE_BITS = 21
RUN = bytes(16)


def cotune(parameters: int, n: int) -> Cost:
    """Suite 1: Ed25519 and X25519."""
    return _cost(parameters, n, CLASSIC)


def cotune_openssl(parameters: int, n: int) -> Cost:
    """Suite 1 without the compiled loops."""
    with mock.patch.multiple(kernel, add_stream=None, hash_pair=None):
        return _cost(parameters, n, CLASSIC)


def cotune_hybrid(parameters: int, n: int) -> Cost:
    """Suite 2: with ML-DSA-65 and ML-KEM-768 beside them."""
    return _cost(parameters, n, HYBRID)


def _cost(parameters: int, n: int, suite: Suite) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        return Consortium(parameters, n, suite, Path(folder)).play()


def wall_seconds(parameters: int, n: int, workers: int) -> float:
    """Wall seconds to encode a vector and mask it with n streams in so many threads."""
    encoding = Encoding(((parameters, CLIP),), n, LANE_BITS)
    vector, streams = vector_of(0, parameters), [(bytes([k]) * 32, 1) for k in range(n)]
    words = np.zeros(encoding.words, dtype=masking.WORD)
    start = time.perf_counter()
    encoding.encode(vector, words, workers)
    masking.apply(words, streams, workers=workers)
    return time.perf_counter() - start


class Consortium:
    """One honest round, timed on both sides; the last organization leaves before its upload where it may."""

    def __init__(self, parameters: int, n: int, suite: Suite, folder: Path, keep: bool = False) -> None:
        self.identities = [new_identity(suite) for _ in range(n)]
        key = new_identity(suite)
        self.roster = Roster("benchmark", 1, tuple(map(raw_public, self.identities)), raw_public(key), suite.id)
        self.encoding = Encoding(((parameters, CLIP),), n, LANE_BITS)
        head, zero = genesis(RUN, self.roster), bytes(32)
        terms = (self.roster.hash, self.roster.indices, least_threshold(n), least_survivors(n), zero, zero, zero)
        plan = Plan(RUN, 1, 0, *terms, self.encoding, 2, head, suite.id)
        self.expected = Expected(RUN, (-1, -1), zero, zero, zero, parameters, self.encoding, head, 1, 2)
        self.journals = [FileJournal(folder / str(index)) for index in range(n)]
        self.client, self.server, self.here = Stopwatch(), Stopwatch(), n - dropouts(n)
        self.coordinator = self.server(Coordinator, self.roster, plan, key)
        self.sent = [0] * n
        self.keep, self.uploads = keep, dict[int, np.ndarray]()
        self.outcome: RoundSum

    def begin(self, index: int) -> Organization:
        """P0 of one organization."""
        message, journal = self.coordinator.plan_message, self.journals[index]
        return Organization.begin(self.roster, index, self.identities[index], message, self.expected, journal)

    def play(self) -> Cost:
        """All phases."""
        server, coordinator, n = self.server, self.coordinator, self.roster.n
        organizations = [self.client(self.begin, index) for index in range(n)]
        for i, organization in enumerate(organizations):
            self.count(i, server(coordinator.add_advert, i, organization.advert), len(organization.advert))
        adverts = server(coordinator.close_adverts)
        for i, organization in enumerate(organizations):
            message = self.client(organization.share, adverts)
            self.count(i, server(coordinator.add_shares, i, message), len(message))
        inboxes = server(coordinator.close_shares)
        before, self.client = self.client.seconds / n, Stopwatch()
        organizations = organizations[: self.here]
        exact, masked, peak = self.upload(organizations, inboxes)
        survivors = server(coordinator.close_uploads)
        for i, organization in enumerate(organizations):
            message = self.client(organization.survive, survivors)
            self.count(i, server(coordinator.add_survival, i, message), len(message))
        quorum = server(coordinator.close_survival)
        for i, organization in enumerate(organizations):
            message = self.client(organization.unmask, quorum)
            self.count(i, server(coordinator.add_reveal, i, message), len(message))
        outcome = self.outcome = server(coordinator.result)
        if np.abs(outcome.values - exact).max() > self.here * CLIP / self.encoding.levels:
            raise SystemExit("the secure sum is not the sum")
        return Cost(before + masked + self.client.seconds / self.here, server.seconds, self.sent[0], peak)

    def upload(self, organizations: list[Organization], inboxes: dict[int, bytes]) -> tuple[np.ndarray, float, int]:
        """P2. Returns the exact sum, the seconds of the median client, and the peak of heap of one.

        The first organization is traced and for that reason not timed.
        """
        exact, seconds, peak = np.zeros(self.encoding.dimension), [], 0
        for i, organization in enumerate(organizations):
            vector = vector_of(i, self.encoding.dimension)
            exact += np.clip(vector, -CLIP, CLIP)
            if i == 0:
                (header, words), peak = with_peak(organization.mask, inboxes[i], vector)
            else:
                clock = Stopwatch()
                header, words = clock(organization.mask, inboxes[i], vector)
                seconds.append(clock.seconds)
            accepted = self.server(self.coordinator.add_upload, i, header, words)
            if self.keep:
                self.uploads[i] = words
            self.count(i, accepted, len(header) + words.nbytes)
        return exact, statistics.median(seconds), peak

    def count(self, index: int, accepted: bool, size: int) -> None:
        """Bytes that went up."""
        if not accepted:
            raise SystemExit(f"an honest message was rejected: {self.coordinator.rejections[-1]}")
        self.sent[index] += size
