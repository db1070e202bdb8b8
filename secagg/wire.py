"""The bytes of the protocol: one hash, one canonical bounded encoding, one signed envelope.

Each value has exactly one encoding and each parser reads to the last byte or refuses, so that a hash of bytes is a hash
of their meaning. Integers are big-endian. Lengths are checked against what is left before anything is allocated.
"""

import hashlib
import math
import struct
from itertools import pairwise
from typing import Self

from .identity import Identity, verify
from .refused import require

PROTOCOL = "cotune/secagg/v2"
MAX_MESSAGE = 4 * 1024 * 1024
MAX_INDEX = 200


def digest(label: str, *parts: bytes | memoryview) -> bytes:
    """H of the specification: SHA-256 over PROTOCOL, label and parts, each after its length as 8 bytes.

    Returns:
        32 bytes. No two different lists (label, parts) hash the same input.
    """
    state = hashlib.sha256()
    for part in (PROTOCOL.encode(), label.encode(), *parts):
        size = part.nbytes if isinstance(part, memoryview) else len(part)
        state.update(size.to_bytes(8, "big"))
        state.update(part)
    return state.digest()


class Writer:
    """Append fields; `bytes(writer)` is the encoding."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)

    def uint(self, value: int, size: int) -> Self:
        """An unsigned integer of `size` bytes; OverflowError where it does not fit."""
        self._parts.append(value.to_bytes(size, "big"))
        return self

    def real(self, value: float) -> Self:
        """A finite IEEE 754 double."""
        self._parts.append(struct.pack(">d", value))
        return self

    def fixed(self, value: bytes, size: int) -> Self:
        """Exactly `size` bytes."""
        if len(value) != size:
            raise ValueError(f"{len(value)} bytes in a field of {size}")
        self._parts.append(value)
        return self

    def blob(self, value: bytes) -> Self:
        """Bytes after their length (4 bytes)."""
        self._parts += [len(value).to_bytes(4, "big"), value]
        return self

    def blobs(self, values: tuple[bytes, ...]) -> Self:
        """A list of at most MAX_INDEX blobs."""
        self.uint(len(values), 2)
        for value in values:
            self.blob(value)
        return self

    def indices(self, values: tuple[int, ...]) -> Self:
        """Indices of organizations, strictly increasing."""
        self.uint(len(values), 2)
        for value in values:
            self.uint(value, 2)
        return self


class Reader:
    """Take fields from the front; `Refused("wire.*")` for anything that `Writer` would not have written."""

    def __init__(self, raw: bytes, limit: int = MAX_MESSAGE) -> None:
        require(len(raw) <= limit, "wire.oversize", f"a message of {len(raw)} bytes; at most {limit} are allowed")
        self._raw = raw
        self._at = 0

    def _take(self, size: int) -> bytes:
        require(size <= len(self._raw) - self._at, "wire.truncated", "a message ends inside a field")
        self._at += size
        return self._raw[self._at - size : self._at]

    def uint(self, size: int) -> int:
        """See `Writer.uint`."""
        return int.from_bytes(self._take(size), "big")

    def real(self) -> float:
        """See `Writer.real`; refuses NaN, infinities and the second zero."""
        value: float = struct.unpack(">d", self._take(8))[0]
        plain = math.isfinite(value) and not (value == 0 and math.copysign(1, value) < 0)
        require(plain, "wire.number", "a number that is not finite, or a negative zero")
        return value

    def fixed(self, size: int) -> bytes:
        """See `Writer.fixed`."""
        return self._take(size)

    def blob(self) -> bytes:
        """See `Writer.blob`."""
        return self._take(self.uint(4))

    def count(self) -> int:
        """The length of a list with one item for each organization at most."""
        count = self.uint(2)
        require(count <= MAX_INDEX, "wire.count", f"a list of {count}; at most {MAX_INDEX} are allowed")
        return count

    def blobs(self) -> tuple[bytes, ...]:
        """See `Writer.blobs`."""
        return tuple(self.blob() for _ in range(self.count()))

    def indices(self) -> tuple[int, ...]:
        """See `Writer.indices`."""
        values = tuple(self.uint(2) for _ in range(self.count()))
        increasing = all(a < b for a, b in pairwise(values))
        require(increasing and all(v < MAX_INDEX for v in values), "wire.indices", "indices out of order or range")
        return values

    def end(self) -> None:
        """Refuse bytes after the last field."""
        require(self._at == len(self._raw), "wire.trailing", "bytes after the end of a message")


def seal(kind: str, body: bytes, key: Identity) -> bytes:
    """The signed envelope: body and the identity's signature over H(kind, body)."""
    return bytes(Writer().blob(body).blob(key.sign(digest(kind, body))))


def peek(envelope: bytes) -> tuple[bytes, bytes]:
    """Body and signature of an envelope, nothing verified."""
    reader = Reader(envelope)
    body, signature = reader.blob(), reader.blob()
    reader.end()
    return body, signature


def unseal(kind: str, envelope: bytes, public_key: bytes, member: int | None = None) -> bytes:
    """The body of an envelope whose signature of this kind holds, else `Refused("wire.signature")`.

    Args:
        member: whose key it is, for the refusal.
    """
    body, signature = peek(envelope)
    held = verify(public_key, signature, digest(kind, body))
    require(held, "wire.signature", f"the signature of a message of kind {kind!r} does not hold", member)
    return body
