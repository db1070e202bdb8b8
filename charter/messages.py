"""The messages between a coordinator and the members of a charter: their names, fields and bounds.

Both ends build on this one table, since server and client never import each other. A message carries hashes and
protocol bytes, never settings. Anything that is not in the table is refused.

    message            coordinator -> member                       member -> coordinator
    query.hello        charter digest, nonce                       name, signature over both
    train.round        signed plan                                 advert
    query.shares       every advert                                sealed shares
    query.upload       the member's shares                         header; masked words
    query.survivors    survivors and upload roots                  signature
    query.reveal       the quorum's signatures                     shares of secrets
    query.open         what shows that a piece does not decode     the pair masks of that piece
    query.record       round records, opened sum, model at need    numbers of pieces to check
    query.pieces       these pieces of every masked upload         nothing, or proof of a false sum
"""

import hashlib
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

HELLO = "query.hello"
ROUND = "train.round"
SHARES = "query.shares"
UPLOAD = "query.upload"
SURVIVORS = "query.survivors"
REVEAL = "query.reveal"
OPEN = "query.open"
RECORD = "query.record"
PIECES = "query.pieces"

BODY = "body"
RECORDS = "records"
NAME = "name"
REFUSED = "refused"
VECTOR = "vector"
MODEL = "model"

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_RECORDS = 10_000
MAX_WORDS = 1 << 28
MAX_NAME_LENGTH = 64
NONCE_BYTES = 32

_NUMBER_BYTES = 4
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_START = len(_NPY_MAGIC) + 2
_NPY_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>[<|>=a-z0-9]{2,4})', 'fortran_order': False, 'shape': \((?P<length>[0-9]{1,12}),\), \} *\n"
)
_MOST_HEADER_BYTES = 256


def hello_statement(charter_digest: str, nonce: bytes) -> bytes:
    """What a member signs to show which member of the charter a Flower node is; 32 bytes."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"nonce: {len(nonce)} bytes, not {NONCE_BYTES}")
    return hashlib.sha256(b"cotune/hello/v1\0" + bytes.fromhex(charter_digest) + nonce).digest()


def read_vector(content: bytes, dtype: str, most: int) -> np.ndarray:
    """The one-dimensional array in foreign .npy bytes, without trusting their header.

    Args:
        content: the bytes of one .npy file.
        dtype: the dtype that it must have, e.g. "<u8".
        most: the largest length allowed.

    Raises:
        ValueError: if it is anything else. Nothing is allocated: the array is a view of `content`.

    NumPy's own reader evaluates the header as a Python literal, whose nesting a sender can make deep enough to end the
    process with a RecursionError or MemoryError. Only the one form that NumPy writes for such an array is read.
    """
    size = int.from_bytes(content[8:_NPY_START], "little")
    header = _NPY_HEADER.fullmatch(content[_NPY_START : _NPY_START + size]) if size <= _MOST_HEADER_BYTES else None
    if content[:8] != _NPY_MAGIC or header is None:
        raise ValueError("vector: not a one-dimensional .npy file of version 1.0")
    found, length = np.dtype(dtype), int(header["length"])
    if header["dtype"].decode() != found.str or length > most:
        raise ValueError("vector: unexpected type or shape")
    if len(content) - _NPY_START - size != length * found.itemsize:
        raise ValueError("vector: its length differs from its header")
    return np.frombuffer(content, dtype=found, offset=_NPY_START + size)


def write_numbers(numbers: Sequence[int]) -> bytes:
    """Ascending numbers of pieces, 4 bytes each."""
    return b"".join(number.to_bytes(_NUMBER_BYTES, "big") for number in numbers)


def read_numbers(content: bytes, below: int) -> tuple[int, ...]:
    """The inverse of `write_numbers`, for foreign bytes.

    Raises:
        ValueError: they are not strictly ascending numbers below `below`.
    """
    if len(content) % _NUMBER_BYTES or len(content) > _NUMBER_BYTES * below:
        raise ValueError(f"numbers of pieces in {len(content)} bytes")
    found = tuple(int(number) for number in np.frombuffer(content, ">u4"))
    if any(one >= other for one, other in pairwise((-1, *found, below))):
        raise ValueError("numbers of pieces out of order or range")
    return found
