"""The bodies that organizations sign, and the bundles in which the coordinator passes them on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from .merkle import HASH
from .refused import require
from .roster import Roster
from .shamir import PRIME, SHARE_BYTES
from .wire import Reader, Writer, peek, unseal


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
    unseal(kind, envelope, roster.members[message.index], message.index)
    return message


@dataclass(frozen=True)
class Advert:
    """P0 -> server: fresh round keys and the commitment to b, all under ctx0 (and so under the previous head)."""

    ctx0: bytes
    index: int
    mask_key: bytes
    channel_key: bytes
    commitment: bytes

    def encode(self) -> bytes:
        """Canonical body."""
        writer = Writer().fixed(self.ctx0, HASH).uint(self.index, 2)
        return bytes(writer.blob(self.mask_key).blob(self.channel_key).fixed(self.commitment, HASH))

    @classmethod
    def decode(cls, body: bytes) -> "Advert":
        """Strict parse."""
        reader = Reader(body)
        advert = cls(reader.fixed(HASH), reader.uint(2), reader.blob(), reader.blob(), reader.fixed(HASH))
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
    """P1 -> server: the signed root over all boxes, and the boxes for U1 without the sender, in order."""

    root: bytes
    boxes: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Root envelope, boxes."""
        return bytes(Writer().blob(self.root).blobs(self.boxes))

    @classmethod
    def decode(cls, raw: bytes) -> "Shares":
        """Strict parse."""
        reader = Reader(raw)
        shares = cls(reader.blob(), reader.blobs())
        reader.end()
        return shares


@dataclass(frozen=True)
class Inbound:
    """One sender's part of a recipient's bundle in P2: its signed root, its box for the recipient, the path between.

    A box is sealed shares and an offer, see `keys`. The recipient's own part has neither box nor path.
    """

    root: bytes
    path: tuple[bytes, ...]
    box: bytes


def encode_inbox(ctx1: bytes, parts: tuple[Inbound, ...]) -> bytes:
    """Body of the bundle of P2, senders in the order of U2."""
    writer = Writer().fixed(ctx1, HASH).uint(len(parts), 2)
    for part in parts:
        writer.blob(part.root).uint(len(part.path), 2)
        for sibling in part.path:
            writer.fixed(sibling, HASH)
        writer.blob(part.box)
    return bytes(writer)


def decode_inbox(body: bytes) -> tuple[bytes, tuple[Inbound, ...]]:
    """Strict parse of `encode_inbox`."""
    reader = Reader(body)
    ctx1 = reader.fixed(HASH)
    parts = []
    for _ in range(reader.count()):
        root = reader.blob()
        path = tuple(reader.fixed(HASH) for _ in range(reader.count()))
        parts.append(Inbound(root, path, reader.blob()))
    reader.end()
    return ctx1, tuple(parts)


# Why a box was of no use to its recipient.
SEAL, NONSENSE, OFFER = 1, 2, 3
_REASONS = (SEAL, NONSENSE, OFFER)


@dataclass(frozen=True)
class Complaint:
    """P2 -> server instead of an upload: a box that its sender signed is of no use."""

    ctx1: bytes
    index: int
    accused: int
    reason: int

    def encode(self) -> bytes:
        """Canonical body."""
        return bytes(Writer().fixed(self.ctx1, HASH).uint(self.index, 2).uint(self.accused, 2).uint(self.reason, 1))

    @classmethod
    def decode(cls, body: bytes) -> "Complaint":
        """Strict parse."""
        reader = Reader(body)
        complaint = cls(reader.fixed(HASH), reader.uint(2), reader.uint(2), reader.uint(1))
        reader.end()
        require(complaint.reason in _REASONS, "complaint.reason", "a complaint without a known reason")
        return complaint


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
