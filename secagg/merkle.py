"""A Merkle root over the chunks of a masked upload, so that later any one chunk can be proved.

Leaves and nodes hash under different labels; an odd node moves up unchanged (as in RFC 6962).
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from .masking import CHUNK_WORDS


def root(words: NDArray[np.uint64], context: bytes, index: int) -> bytes:
    """The root over chunks of CHUNK_WORDS words.

    Args:
        words: little-endian uint64 [w], contiguous, w >= 1.
        context: 32 bytes that bind the leaves to the round (ctx2).
        index: whose upload it is.

    Returns:
        32 bytes.
    """
    prefix = b"\x00" + context + index.to_bytes(2, "big")
    level = []
    for number, start in enumerate(range(0, len(words), CHUNK_WORDS)):
        state = hashlib.sha256(prefix + number.to_bytes(8, "big"))
        state.update(words[start : start + CHUNK_WORDS].data)
        level.append(state.digest())
    while len(level) > 1:
        joined = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = joined + level[len(joined) * 2 :]
    return hashlib.sha256(b"\x02" + len(words).to_bytes(8, "big") + level[0]).digest()
