"""Who takes part: pinned by the charter, never learned from the server."""

from dataclasses import dataclass

from .refused import require
from .wire import MAX_INDEX, Writer, digest

KEY_BYTES = 32
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
        members: raw Ed25519 public keys, 32 bytes each; the position is the index used everywhere else.
        coordinator: raw Ed25519 public key of the server's coordinator.

    Raises:
        Refused: "roster.too_few", "roster.too_many", "roster.key", "roster.duplicate" or "roster.name".
    """

    federation: str
    epoch: int
    members: tuple[bytes, ...]
    coordinator: bytes

    def __post_init__(self) -> None:
        keys = (*self.members, self.coordinator)
        require(len(self.members) >= MIN_MEMBERS, "roster.too_few", TOO_FEW)
        require(len(self.members) <= MAX_MEMBERS, "roster.too_many", f"at most {MAX_MEMBERS} organizations")
        require(all(len(key) == KEY_BYTES for key in keys), "roster.key", "an identity key is not 32 bytes")
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
        name = Writer().blob(self.federation.encode()).uint(self.epoch, 4)
        return digest("roster", bytes(name), self.coordinator, *self.members)
