"""The messages between a coordinator and the members of a charter: their names, fields and bounds.

Both ends build on this one table, since server and client never import each other. A message carries hashes and
protocol bytes, never settings. Anything that is not in the table is refused.

    message            coordinator -> member                       member -> coordinator
    query.hello        charter digest, nonce                       name, signature over both
    train.round        signed plan, adapter, round records         advert
    query.shares       every advert                                sealed shares
    query.upload       the member's shares                         header; masked words
    query.survivors    survivors and upload roots                  signature
    query.reveal       the quorum's signatures                     shares of secrets
    query.record       the last round record                       nothing
"""

import hashlib
import io

import numpy as np
from numpy.lib import format as npy

HELLO = "query.hello"
ROUND = "train.round"
SHARES = "query.shares"
UPLOAD = "query.upload"
SURVIVORS = "query.survivors"
REVEAL = "query.reveal"
RECORD = "query.record"

BODY = "body"
RECORDS = "records"
NAME = "name"
REFUSED = "refused"
VECTOR = "vector"

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_RECORDS = 10_000
MAX_WORDS = 1 << 28
MAX_NAME_LENGTH = 64
NONCE_BYTES = 32


def hello_statement(charter_digest: str, nonce: bytes) -> bytes:
    """What a member signs to show which member of the charter a Flower node is; 32 bytes."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"nonce: {len(nonce)} bytes, not {NONCE_BYTES}")
    return hashlib.sha256(b"cotune/hello/v1\0" + bytes.fromhex(charter_digest) + nonce).digest()


def read_vector(content: bytes, dtype: str, most: int) -> np.ndarray:
    """The one-dimensional array in foreign .npy bytes, without trusting their header.

    Args:
        content: the bytes of one .npy file.
        dtype: the dtype that it must have, e.g. "<f4".
        most: the largest length allowed.

    Raises:
        ValueError: if it is anything else. The array is allocated only after the header agreed with the length.
    """
    stream = io.BytesIO(content)
    if npy.read_magic(stream) != (1, 0):
        raise ValueError("vector: not an .npy file of version 1.0")
    shape, _, found = npy.read_array_header_1_0(stream)
    body = content[stream.tell() :]
    if found != np.dtype(dtype) or len(shape) != 1 or not 0 <= shape[0] <= most:
        raise ValueError("vector: unexpected type or shape")
    if len(body) != shape[0] * found.itemsize:
        raise ValueError("vector: its length differs from its header")
    return np.frombuffer(body, dtype=found)
