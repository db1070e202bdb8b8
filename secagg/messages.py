"""The bodies that organizations sign, and the bundles in which the coordinator passes them on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from .refused import require
from .roster import Roster
from .shamir import PRIME, SHARE_BYTES
from .wire import Reader, Writer, peek, unseal

HASH = 32
SEALED_BYTES = 12 + 2 * SHARE_BYTES + 16


class Indexed(Protocol):
    """A body that names its organization."""

    @property
    def index(self) -> int:
        """The organization that signed."""


M = TypeVar("M", bound=Indexed)


def open_member(kind: str, envelope: bytes, decode: Callable[[bytes], M], roster: Roster) -> M:
    """A signed body of whichever member of the roster it names; Refused("wire.*") where the signature fails."""
    message = decode(peek(envelope)[0])
    require(message.index < roster.n, "wire.index", "a message of an organization that is not in the roster")
    unseal(kind, envelope, roster.members[message.index])
    return message


@dataclass(frozen=True)
class Advert:
    """P0 -> server: fresh X25519 keys and the commitment to b, all under ctx0 (and so under the previous head)."""

    ctx0: bytes
    index: int
    mask_key: bytes
    channel_key: bytes
    commitment: bytes

    def encode(self) -> bytes:
        """Canonical body."""
        writer = Writer().fixed(self.ctx0, HASH).uint(self.index, 2)
        return bytes(writer.fixed(self.mask_key, HASH).fixed(self.channel_key, HASH).fixed(self.commitment, HASH))

    @classmethod
    def decode(cls, body: bytes) -> "Advert":
        """Strict parse."""
        reader = Reader(body)
        advert = cls(reader.fixed(HASH), reader.uint(2), *(reader.fixed(HASH) for _ in range(3)))
        reader.end()
        return advert


@dataclass(frozen=True)
class Rooted:
    """The shares' root (context ctx1), the upload's root and the survivors' statement (context ctx2)."""

    context: bytes
    index: int
    root: bytes

    def encode(self) -> bytes:
        """Canonical body."""
        return bytes(Writer().fixed(self.context, HASH).uint(self.index, 2).fixed(self.root, HASH))

    @classmethod
    def decode(cls, body: bytes) -> "Rooted":
        """Strict parse."""
        reader = Reader(body)
        rooted = cls(reader.fixed(HASH), reader.uint(2), reader.fixed(HASH))
        reader.end()
        return rooted


@dataclass(frozen=True)
class Shares:
    """P1 -> server: the signed root with all leaves and sealed shares, for U1 without the sender, in order."""

    root: bytes
    leaves: tuple[bytes, ...]
    sealed: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Root envelope, count, leaves, sealed shares."""
        writer = Writer().blob(self.root).uint(len(self.leaves), 2)
        for leaf in self.leaves:
            writer.fixed(leaf, HASH)
        for box in self.sealed:
            writer.fixed(box, SEALED_BYTES)
        return bytes(writer)

    @classmethod
    def decode(cls, raw: bytes) -> "Shares":
        """Strict parse."""
        reader = Reader(raw)
        root, count = reader.blob(), reader.count()
        leaves = tuple(reader.fixed(HASH) for _ in range(count))
        sealed = tuple(reader.fixed(SEALED_BYTES) for _ in range(count))
        reader.end()
        return cls(root, leaves, sealed)


@dataclass(frozen=True)
class Inbound:
    """One sender's part of a recipient's bundle in P2: its signed root, all its leaves, the share for the recipient."""

    root: bytes
    leaves: tuple[bytes, ...]
    sealed: bytes


def encode_inbox(ctx1: bytes, parts: tuple[Inbound, ...]) -> bytes:
    """Body of the bundle of P2, senders in the order of U2; the recipient's own part has an empty share."""
    writer = Writer().fixed(ctx1, HASH).uint(len(parts), 2)
    for part in parts:
        writer.blob(part.root).uint(len(part.leaves), 2)
        for leaf in part.leaves:
            writer.fixed(leaf, HASH)
        writer.blob(part.sealed)
    return bytes(writer)


def decode_inbox(body: bytes) -> tuple[bytes, tuple[Inbound, ...]]:
    """Strict parse of `encode_inbox`."""
    reader = Reader(body)
    ctx1 = reader.fixed(HASH)
    parts = []
    for _ in range(reader.count()):
        root = reader.blob()
        leaves = tuple(reader.fixed(HASH) for _ in range(reader.count()))
        parts.append(Inbound(root, leaves, reader.blob()))
    reader.end()
    return ctx1, tuple(parts)


def encode_list(context: bytes, envelopes: tuple[bytes, ...]) -> bytes:
    """Body of the bundles of P1 (adverts), P3 (upload headers) and P4 (survivors' signatures)."""
    return bytes(Writer().fixed(context, HASH).blobs(envelopes))


def decode_list(body: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Strict parse of `encode_list`."""
    reader = Reader(body)
    context, envelopes = reader.fixed(HASH), reader.blobs()
    reader.end()
    return context, envelopes


@dataclass(frozen=True)
class Reveal:
    """P4 -> server: shares of b of the survivors and of mk of the dropped, as (owner, value)."""

    statement: bytes
    index: int
    self_shares: tuple[tuple[int, int], ...]
    mask_shares: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        """Canonical body."""
        writer = Writer().fixed(self.statement, HASH).uint(self.index, 2)
        for shares in (self.self_shares, self.mask_shares):
            writer.indices(tuple(owner for owner, _ in shares))
            for _, value in shares:
                writer.uint(value, SHARE_BYTES)
        return bytes(writer)

    @classmethod
    def decode(cls, body: bytes) -> "Reveal":
        """Strict parse; also refuses ("share.both") shares of both secrets of one organization."""
        reader = Reader(body)
        statement, index = reader.fixed(HASH), reader.uint(2)
        lists = []
        for _ in range(2):
            owners = reader.indices()
            lists.append(tuple((owner, read_share(reader)) for owner in owners))
        reader.end()
        both = {owner for owner, _ in lists[0]} & {owner for owner, _ in lists[1]}
        require(not both, "share.both", "shares of both secrets of one organization")
        return cls(statement, index, lists[0], lists[1])


def read_share(reader: Reader) -> int:
    """One value of the field."""
    value = reader.uint(SHARE_BYTES)
    require(value < PRIME, "share.range", "a share outside the field")
    return value
