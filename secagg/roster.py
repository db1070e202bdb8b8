"""Who takes part: pinned by the charter, never learned from the server."""

from dataclasses import dataclass

from .refused import require
from .suites import CLASSIC, suite_of
from .wire import MAX_INDEX, Writer, digest

MIN_MEMBERS = 3
MAX_MEMBERS = MAX_INDEX
TOO_FEW = (
    "secure aggregation needs at least three organizations: with two, each learns the other's update by subtracting "
    "its own from the sum"
)


@dataclass(frozen=True)
class Roster:
    """Index -> identity key of every organization, and the coordinator's key.

    Args:
        federation: the name of the federation, at most 200 bytes of UTF-8.
        epoch: increases with each change of the membership.
        members: raw public identity keys of the suite; the position is the index used everywhere else.
        coordinator: raw public identity key of the server's coordinator.
        suite: id in `suites`: which primitives every plan must use.

    Raises:
        Refused: "roster.too_few", "roster.too_many", "roster.key", "roster.duplicate", "roster.name" or "plan.suite".
    """

    federation: str
    epoch: int
    members: tuple[bytes, ...]
    coordinator: bytes
    suite: int = CLASSIC.id

    def __post_init__(self) -> None:
        keys = (*self.members, self.coordinator)
        require(len(self.members) >= MIN_MEMBERS, "roster.too_few", TOO_FEW)
        require(len(self.members) <= MAX_MEMBERS, "roster.too_many", f"at most {MAX_MEMBERS} organizations")
        size = suite_of(self.suite).identity_bytes
        require(all(len(key) == size for key in keys), "roster.key", f"an identity key is not {size} bytes")
        require(len(set(keys)) == len(keys), "roster.duplicate", "two members of the roster have the same key")
        named = 0 < len(self.federation.encode()) <= 200
        require(named and 0 <= self.epoch < 2**32, "roster.name", "a federation name or epoch out of bounds")

    @property
    def n(self) -> int:
        """How many organizations."""
        return len(self.members)

    @property
    def indices(self) -> tuple[int, ...]:
        """Every index: U0 of each round."""
        return tuple(range(self.n))

    @property
    def hash(self) -> bytes:
        """32 bytes that stand for the whole roster in every plan."""
        name = Writer().blob(self.federation.encode()).uint(self.epoch, 4).uint(self.suite, 2)
        return digest("roster", bytes(name), self.coordinator, *self.members)
