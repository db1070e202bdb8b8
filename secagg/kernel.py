"""The compiled loops of `kernel.c`, where they can be used: the same bytes as OpenSSL makes, in about half of the time.

`masking` and `merkle` ask for them at every call and do the same with OpenSSL where there is None: the module was not
built, the processor lacks the instructions, a loop fails its known answers, or the environment variable COTUNE_KERNEL
is set to anything but "on" (for who may use validated cryptography only). The members of a run need not choose alike.
"""

import hashlib
import os
import warnings
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

try:
    from . import _kernel
except ImportError:
    _kernel = None  # type: ignore[assignment]

SWITCH = "COTUNE_KERNEL"
VERSION = 1  # of kernel.c
CHUNK_WORDS, PIECE_WORDS = 32 * 1024, 2048  # of masking.py and merkle.py, which are above this module
LEAF_HEAD = 43  # bytes before the piece in a leaf of merkle.py
# (words, seed, chunk, sign): words, uint64 and contiguous, +- the key stream of a chunk, in place.
AddStream = Callable[[NDArray[np.uint64], bytes, int, int], None]
# (head, body, head, body): SHA-256 of both heads and bodies; bodies of one size, heads of one size below 64 bytes.
HashPair = Callable[[bytes, NDArray[np.uint64], bytes, NDArray[np.uint64]], tuple[bytes, bytes]]


def key_stream(seed: bytes, chunk: int, size: int) -> bytes:
    """AES-256-CTR from the counter block (chunk, 96 bits; 2, 32 bits), by OpenSSL's plain counter mode."""
    counter = chunk.to_bytes(12, "big") + (2).to_bytes(4, "big")
    return Cipher(AES(seed), CTR(counter)).encryptor().update(bytes(size))


def masks_right(add_stream: AddStream) -> bool:
    """Whether the loop makes the key stream of OpenSSL: for every length up to some vectors, and for a whole chunk."""
    seed, number = bytes(range(32)), 0x0123456789ABCDEF
    stream = np.frombuffer(key_stream(seed, number, 8 * CHUNK_WORDS), dtype="<u8")
    for size in (*range(140), CHUNK_WORDS):
        words = np.arange(size + 1, dtype="<u8")
        for sign in (1, -1, -1):
            add_stream(words[:size], seed, number, sign)
        # Its last word lies beyond the end, and stays.
        expected = np.arange(size + 1, dtype="<u8")
        expected[:size] -= stream[:size]
        if not np.array_equal(words, expected):
            return False
    return True


def hashes_right(hash_pair: HashPair) -> bool:
    """Whether the loop hashes as hashlib does: leaves of every length up to some blocks, and of a whole piece."""
    words = np.frombuffer(key_stream(bytes(32), 0, 16 * PIECE_WORDS), dtype="<u8")
    for size in (*range(3, 40), PIECE_WORDS):
        parts = [(bytes([number]) * LEAF_HEAD, words[number * size :][:size]) for number in range(2)]
        expected = tuple(hashlib.sha256(head + body.tobytes()).digest() for head, body in parts)
        if hash_pair(*parts[0], *parts[1]) != expected:
            return False
    return True


def _load() -> tuple[AddStream | None, HashPair | None]:
    if _kernel is None or os.environ.get(SWITCH, "on") != "on":
        return None, None
    if getattr(_kernel, "VERSION", None) != VERSION:
        warnings.warn("cotune.secagg: the compiled loops are of another version, install cotune again", stacklevel=2)
        return None, None
    masks = _kernel.add_stream if _kernel.MASKS else None
    hashes = _kernel.hash_pair if _kernel.HASHES else None
    try:
        right = (not masks or masks_right(masks)) and (not hashes or hashes_right(hashes))
    except Exception:  # whatever it is, OpenSSL does the work
        right = False
    if not right:
        warnings.warn("cotune.secagg: the compiled loops fail their known answers and are not used", stacklevel=2)
        return None, None
    return masks, hashes


add_stream, hash_pair = _load()


def described() -> str:
    """What makes masks and hashes here, for people."""
    return ", ".join(
        f"{what} by {'the compiled loop' if loop else 'OpenSSL'}"
        for what, loop in (("masks", add_stream), ("hashes", hash_pair))
    )
