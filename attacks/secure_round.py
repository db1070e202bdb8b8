"""One round of the secure aggregation in memory, with its own parties: what the coordinator sees, and what it opens."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..secagg.admission import Expected
from ..secagg.control import CONTROL_WORDS
from ..secagg.coordinator import Coordinator
from ..secagg.encoding import Encoding
from ..secagg.identity import new_identity, raw_public
from ..secagg.organization import Organization
from ..secagg.plan import Plan, least_survivors, least_threshold
from ..secagg.record import genesis
from ..secagg.roster import Roster
from ..secagg.suites import CLASSIC

_RUN, _HASH = bytes(16), bytes(32)


@dataclass(frozen=True, eq=False)
class Opened:
    """What a coordinator holds after a round.

    Attributes:
        uploads: float64 [n, dimension], each masked upload, read as if it were not masked.
        total: float64 [dimension], the sum.
    """

    uploads: NDArray[np.float64]
    total: NDArray[np.float64]


class _Forgetful:
    """A journal for a round that nobody repeats."""

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None:
        """Nothing is kept."""

    def survived(self, run: bytes, round: int) -> bool:
        """Nobody has signed before."""
        return False


def secure_round(vectors: NDArray[np.float64], bound: float, lane_bits: int) -> Opened:
    """Aggregate the rows of float64 [n, dimension], n >= 3.

    Args:
        vectors: one contribution an organization. bound: of a coordinate. lane_bits: of the encoding.
    """
    n, dimension = vectors.shape
    encoding = Encoding(((dimension, bound),), n, lane_bits)
    keys, coordinator_key = [new_identity(CLASSIC) for _ in range(n)], new_identity(CLASSIC)
    roster = Roster("audit", 0, tuple(map(raw_public, keys)), raw_public(coordinator_key), CLASSIC.id)
    head = genesis(_RUN, roster)
    plan = Plan(
        run=_RUN,
        round=0,
        attempt=0,
        roster_hash=roster.hash,
        cohort=roster.indices,
        threshold=least_threshold(n),
        min_survivors=least_survivors(n),
        model_hash=_HASH,
        schema_hash=_HASH,
        dp_hash=_HASH,
        encoding=encoding,
        deadline=2,
        prev_head=head,
        suite=CLASSIC.id,
    )
    server = Coordinator(roster, plan, coordinator_key)
    expected = Expected(_RUN, (-1, -1), _HASH, _HASH, _HASH, dimension, encoding, head, 1, 2)
    parties = [
        Organization.begin(roster, index, key, server.plan_message, expected, _Forgetful())
        for index, key in enumerate(keys)
    ]
    for index, party in enumerate(parties):
        server.add_advert(index, party.advert)
    adverts = server.close_adverts()
    for index, party in enumerate(parties):
        server.add_shares(index, party.share(adverts))
    inboxes = server.close_shares()
    uploads = []
    for index, party in enumerate(parties):
        header, words = party.mask(inboxes[index], vectors[index])
        uploads.append(_read(words.copy(), encoding))
        server.add_upload(index, header, words)
    survivors = server.close_uploads()
    for index, party in enumerate(parties):
        server.add_survival(index, party.survive(survivors))
    quorum = server.close_survival()
    for index, party in enumerate(parties):
        server.add_reveal(index, party.unmask(quorum))
    return Opened(np.stack(uploads), server.result().values)


def _read(words: NDArray[np.uint64], encoding: Encoding) -> NDArray[np.float64]:
    """The lanes of a masked upload as numbers, range checks left out: all that a curious coordinator can do."""
    body = words[CONTROL_WORDS:]
    shifts = np.arange(encoding.lanes, dtype=np.uint64) * np.uint64(encoding.lane_bits)
    lanes = (body[None, :] >> shifts[:, None]) & np.uint64((1 << encoding.lane_bits) - 1)
    values = lanes.reshape(-1)[: encoding.dimension].astype(np.float64) - encoding.levels
    return values * np.repeat(encoding.steps(), [size for size, _ in encoding.segments])
