"""What an organization remembers between two exchanges, and its one encoding."""

from dataclasses import dataclass, field
from enum import IntEnum

from .keys import SECRET_BYTES
from .merkle import HASH
from .messages import read_share
from .refused import refuse
from .shamir import SHARE_BYTES
from .wire import Reader, Writer

_MAGIC = b"cotune-secagg-state-2"


class Phase(IntEnum):
    """The last message that was signed; a complaint or a reveal ends an attempt."""

    ADVERTISED = 1
    SHARED = 2
    MASKED = 3
    SURVIVED = 4
    DONE = 5


@dataclass
class State:
    """Secrets and view of one organization in one attempt.

    The own secrets (b, mk, ck) live until the vector is masked, the peers' shares until they are revealed; then the
    fields are emptied. `held` maps an owner in U2 to (share of its b, share of its mk); `offered` are the secrets that
    this organization offered to U1 without itself, in order (empty ones in suite 1). `seeds` are those of the pair
    masks on the own upload, only where a piece of it may be opened: of U2 without itself, once the survivors are signed
    of U3 without itself, in order.
    """

    phase: Phase
    index: int
    plan: bytes
    advert: bytes
    secrets: tuple[bytes, ...] = field(repr=False)
    adverts: tuple[bytes, ...] = ()
    own_root: bytes = b""
    offered: tuple[bytes, ...] = field(default=(), repr=False)
    held: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)
    ctx2: bytes = bytes(HASH)
    sharers: tuple[int, ...] = ()
    header: bytes = b""
    saturated: int = 0
    survivors: tuple[int, ...] = ()
    statement: bytes = bytes(HASH)
    seeds: tuple[bytes, ...] = field(default=(), repr=False)

    def encode(self) -> bytes:
        """All of it, secrets included: for a file with mode 0600 only."""
        writer = Writer().fixed(_MAGIC, len(_MAGIC)).uint(self.phase, 1).uint(self.index, 2)
        writer.blob(self.plan).blob(self.advert).blobs(self.secrets).blobs(self.adverts).blob(self.own_root).blobs(
            self.offered
        )
        owners = tuple(sorted(self.held))
        writer.indices(owners)
        for owner in owners:
            writer.uint(self.held[owner][0], SHARE_BYTES).uint(self.held[owner][1], SHARE_BYTES)
        writer.fixed(self.ctx2, HASH).indices(self.sharers).blob(self.header).uint(self.saturated, 8)
        return bytes(writer.indices(self.survivors).fixed(self.statement, HASH).blobs(self.seeds))

    @classmethod
    def decode(cls, raw: bytes) -> "State":
        """Strict parse; Refused("state.*" or "wire.*") for anything else than an `encode`."""
        reader = Reader(raw)
        if reader.fixed(len(_MAGIC)) != _MAGIC:
            refuse("state.format", "this is not the state of an organization")
        phase, index = reader.uint(1), reader.uint(2)
        if phase not in tuple(Phase):
            refuse("state.format", "a state in no phase")
        plan, advert, secrets = reader.blob(), reader.blob(), reader.blobs()
        if any(len(secret) != SECRET_BYTES for secret in secrets) or len(secrets) not in (0, 3):
            refuse("state.format", "secrets of the wrong length")
        adverts, own_root, offered = reader.blobs(), reader.blob(), reader.blobs()
        held = {owner: (read_share(reader), read_share(reader)) for owner in reader.indices()}
        ctx2, cohort, header, saturated = reader.fixed(HASH), reader.indices(), reader.blob(), reader.uint(8)
        survivors, statement, seeds = reader.indices(), reader.fixed(HASH), reader.blobs()
        reader.end()
        if any(len(seed) != SECRET_BYTES for seed in seeds):
            refuse("state.format", "seeds of the wrong length")
        tail = (ctx2, cohort, header, saturated, survivors, statement, seeds)
        return cls(Phase(phase), index, plan, advert, secrets, adverts, own_root, offered, held, *tail)
