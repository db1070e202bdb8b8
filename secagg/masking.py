"""Masks: AES-256-CTR key streams added to vectors of uint64 in place, chunk by chunk.

A seed is used for one vector only, so the counter starts at zero; a chunk starts at its own block, so any chunk can be
masked, unmasked or audited alone. The chunk is the outer loop: it stays in the cache while every stream passes.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

WORD = np.dtype("<u8")
WORD_BYTES = 8
BLOCK_BYTES = 16
CHUNK_WORDS = 32 * 1024  # 256 KiB: scratch and chunk stay in the second-level cache
_ZEROS = bytes(CHUNK_WORDS * WORD_BYTES)


class _Encryptor(Protocol):
    def update_into(self, data: memoryview, buf: memoryview) -> int: ...


class KeyStream:
    """The AES-256-CTR key stream of one seed.

    Args:
        seed: 32 bytes.
        first_word: where to start, in words; a multiple of 2 (a block is 16 bytes).
    """

    def __init__(self, seed: bytes, first_word: int = 0) -> None:
        if first_word % (BLOCK_BYTES // WORD_BYTES):
            raise ValueError("a key stream starts at a block of two words")
        counter = (first_word * WORD_BYTES // BLOCK_BYTES).to_bytes(BLOCK_BYTES, "big")
        self._encryptor: _Encryptor = Cipher(AES(seed), CTR(counter)).encryptor()

    def fill(self, buffer: bytearray, size: int) -> None:
        """Overwrite the first `size` bytes of `buffer` by the next ones of the stream.

        `buffer` needs BLOCK_BYTES - 1 spare bytes; `size` at most one chunk.
        """
        self._encryptor.update_into(memoryview(_ZEROS)[:size], memoryview(buffer))


def scratch() -> bytearray:
    """A buffer for `KeyStream.fill` of a whole chunk."""
    return bytearray(len(_ZEROS) + BLOCK_BYTES - 1)


def apply(words: NDArray[np.uint64], streams: Sequence[tuple[bytes, int]], first_word: int = 0) -> None:
    """Add or subtract the streams of many seeds, modulo 2^64, in place.

    Args:
        words: uint64 [w], contiguous; words[0] is word `first_word` of the whole vector.
        streams: (seed, sign) with sign +1 or -1.
        first_word: a multiple of 2.
    """
    running = [(KeyStream(seed, first_word), np.add if sign > 0 else np.subtract) for seed, sign in streams]
    buffer = scratch()
    stream_words = np.frombuffer(buffer, dtype=WORD, count=CHUNK_WORDS)
    for start in range(0, len(words), CHUNK_WORDS):
        chunk = words[start : start + CHUNK_WORDS]
        for stream, operation in running:
            stream.fill(buffer, len(chunk) * WORD_BYTES)
            operation(chunk, stream_words[: len(chunk)], out=chunk)


def pair_sign(owner: int, peer: int) -> int:
    """+1 where the owner of the upload has the smaller index, else -1: the two cancel in the sum."""
    return 1 if owner < peer else -1
