"""Masks: AES-256 key streams in counter mode, added to vectors of uint64 in place, chunk by chunk.

A seed is used for one vector only. Chunk k has nonce k, so any chunk can be masked, unmasked or audited alone: its key
stream is what AES-256-GCM encrypts zeros to, which is AES-256-CTR from the counter block k (96 bits), 2 (32 bits). GCM
because OpenSSL computes it with the vector instructions of newer processors, twice as fast as its plain counter mode;
the tag that comes with it is not used. The chunk is the outer loop: it stays in the cache while every stream passes.
Where `kernel` has the loop, the streams are made and added in one pass instead.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from . import kernel

WORD = np.dtype("<u8")
WORD_BYTES = 8
NONCE_BYTES = 12
TAG_BYTES = 16
CHUNK_WORDS = 32 * 1024  # 256 KiB: scratch and chunk stay in the second-level cache
_ZEROS = memoryview(bytes(CHUNK_WORDS * WORD_BYTES))
T = TypeVar("T")


class KeyStream:
    """The key stream of one seed, a chunk at a time.

    Args:
        seed: 32 bytes, for this stream alone.
        first_word: where to start, in words; a multiple of CHUNK_WORDS.
    """

    def __init__(self, seed: bytes, first_word: int = 0) -> None:
        self._cipher = AESGCM(seed)
        self._chunk = _chunk_of(first_word)

    def fill(self, buffer: bytearray, size: int) -> None:
        """Overwrite the first `size` bytes of `buffer` by those of the next chunk; what is left of it is skipped.

        `buffer` needs TAG_BYTES more, which are overwritten too; `size` is at most one chunk.
        """
        nonce = self._chunk.to_bytes(NONCE_BYTES, "big")
        self._cipher.encrypt_into(nonce, _ZEROS[:size], None, memoryview(buffer)[: size + TAG_BYTES])
        self._chunk += 1


def _chunk_of(first_word: int) -> int:
    if first_word % CHUNK_WORDS:
        raise ValueError("a key stream starts at a chunk")
    return first_word // CHUNK_WORDS


def scratch() -> bytearray:
    """A buffer for `KeyStream.fill` of a whole chunk."""
    return bytearray(len(_ZEROS) + TAG_BYTES)


def apply(
    words: NDArray[np.uint64], streams: Sequence[tuple[bytes, int]], first_word: int = 0, workers: int = 1
) -> None:
    """Add or subtract the streams of many seeds, modulo 2^64, in place.

    Args:
        words: uint64 [w], contiguous; words[0] is word `first_word` of the whole vector.
        streams: (seed, sign) with sign +1 or -1.
        first_word: a multiple of CHUNK_WORDS.
        workers: threads; the words do not depend on it.
    """
    add = _apply if kernel.add_stream is None else partial(_apply_compiled, kernel.add_stream)
    in_spans(len(words), workers, lambda start, stop: add(words[start:stop], streams, first_word + start))


def apply_within(words: NDArray[np.uint64], streams: Sequence[tuple[bytes, int]], first_word: int) -> None:
    """`apply` to a part of one chunk: the chunk's key streams are made from its start to the end of the part.

    Args:
        words: uint64 [w]. first_word: any; the chunk that holds it holds all w words.
    """
    before = first_word % CHUNK_WORDS
    masks = np.zeros(before + len(words), dtype=WORD)
    apply(masks, streams, first_word - before)
    np.add(words, masks[before:], out=words)


def _apply_compiled(
    add_stream: kernel.AddStream, words: NDArray[np.uint64], streams: Sequence[tuple[bytes, int]], first_word: int
) -> None:
    for number, start in enumerate(range(0, len(words), CHUNK_WORDS), _chunk_of(first_word)):
        for seed, sign in streams:
            add_stream(words[start : start + CHUNK_WORDS], seed, number, sign)


def _apply(words: NDArray[np.uint64], streams: Sequence[tuple[bytes, int]], first_word: int) -> None:
    running = [(KeyStream(seed, first_word), np.add if sign > 0 else np.subtract) for seed, sign in streams]
    buffer = scratch()
    stream_words = np.frombuffer(buffer, dtype=WORD, count=CHUNK_WORDS)
    for start in range(0, len(words), CHUNK_WORDS):
        chunk = words[start : start + CHUNK_WORDS]
        for stream, operation in running:
            stream.fill(buffer, len(chunk) * WORD_BYTES)
            operation(chunk, stream_words[: len(chunk)], out=chunk)


def in_spans(words: int, workers: int, task: Callable[[int, int], T]) -> list[T]:
    """`task(start, stop)` for disjoint spans of whole chunks that cover [0, words), in at most `workers` threads.

    Args:
        workers: at least 1.

    Returns:
        What the tasks returned, in the order of the spans.
    """
    size = max(1, -(-words // (workers * CHUNK_WORDS))) * CHUNK_WORDS
    spans = [(start, min(words, start + size)) for start in range(0, words, size)]
    if len(spans) < 2:
        return [task(*span) for span in spans]
    with ThreadPoolExecutor(len(spans)) as pool:
        return list(pool.map(lambda span: task(*span), spans))


def pair_sign(owner: int, peer: int) -> int:
    """+1 where the owner of the upload has the smaller index, else -1: the two cancel in the sum."""
    return 1 if owner < peer else -1
