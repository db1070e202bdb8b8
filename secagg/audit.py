"""Recompute any chunk of a round's sum from the masked uploads that the server kept.

The secrets in a round record take the masks off the sum of the uploads and off nothing less. So any organization can
check, chunk by chunk, that the sum it was told is the sum of what the survivors signed, without a word of any single
update.

Guarantees: a chunk that `audit_chunk` returns is the sum of the chunks under the signed roots of all survivors, and is
the chunk under the recorded `result`. Nothing is said about the other chunks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import masking, merkle
from .control import CONTROL_WORDS, check_control
from .masking import CHUNK_WORDS, WORD
from .record import Verified
from .recovery import remaining_streams
from .refused import require
from .suites import suite_of


@dataclass(frozen=True)
class Chunk:
    """One chunk of a vector and its path to the signed root: uint64 [at most CHUNK_WORDS], 32 bytes a step."""

    words: NDArray[np.uint64]
    path: tuple[bytes, ...]


def chunk_of(words: NDArray[np.uint64], number: int, context: bytes, index: int) -> Chunk:
    """Cut chunk `number` out of a whole vector, with its proof.

    Args:
        words: uint64 [w]. context: ctx2. index: whose upload it is, or `merkle.SUM` for the bare sum.
    """
    leaves = merkle.chunk_leaves(words, context, index)
    return Chunk(words[number * CHUNK_WORDS :][:CHUNK_WORDS], merkle.path(leaves, number))


def audit_chunk(verified: Verified, number: int, uploads: Mapping[int, Chunk], result: Chunk) -> NDArray[np.uint64]:
    """Recompute chunk `number` of the bare sum.

    Args:
        verified: the round's record, see `record.verify`.
        uploads: the chunk of every survivor's masked upload, by index.
        result: the same chunk of the sum that the server handed out.

    Returns:
        uint64 [at most CHUNK_WORDS], equal to `result.words`.

    Raises:
        Refused: "audit.chunk" for a number that the vector does not have; "audit.missing" and "audit.upload" naming the
            organization whose chunk is missing or not what it signed; "audit.sum" where the server's chunk is not under
            the recorded result; "audit.result" where it is not the sum; "sum.control" and "sum.range" where the
            revealed secrets do not take the masks off.
    """
    size = CONTROL_WORDS + verified.plan.encoding.words
    require(0 <= number < merkle.chunks(size), "audit.chunk", f"the vector has {merkle.chunks(size)} chunks")
    start = number * CHUNK_WORDS
    total = np.zeros(min(CHUNK_WORDS, size - start), dtype=WORD)
    for index in verified.survivors:
        require(index in uploads, "audit.missing", "a kept upload is missing", index)
        held = _under(verified.roots[index], uploads[index], number, size, verified.ctx2, index)
        require(held, "audit.upload", "a kept upload is not the one that its organization signed", index)
        np.add(total, uploads[index].words, out=total)
    held = _under(verified.record.result, result, number, size, verified.ctx2, merkle.SUM)
    require(held, "audit.sum", "the sum that was kept is not the one whose hash is in the record")
    suite, secrets = suite_of(verified.plan.suite), (verified.self_secrets, verified.mask_secrets, verified.agreed)
    masking.apply(total, remaining_streams(*secrets, verified.cohort, verified.ctx2, suite), start)
    _check_bare(total, start, verified)
    same = bool((total == result.words).all())
    require(same, "audit.result", f"chunk {number} of the recorded sum is not the sum of the uploads")
    return total


def _check_bare(chunk: NDArray[np.uint64], start: int, verified: Verified) -> None:
    """Refuse words [start, ...) that are no sum of the survivors' encoded vectors: a mask is still on them.

    What a dropped member of the hybrid suite had agreed upon is in the record without a proof. Whatever else stands
    there leaves masks on, and the sum can be recorded to match; but then its words are random.
    """
    contributions = len(verified.survivors)
    if not start:
        check_control(chunk[:CONTROL_WORDS], contributions)
    first = max(CONTROL_WORDS, start)
    verified.plan.encoding.check_range(chunk[first - start :], first - CONTROL_WORDS, contributions)


def _under(root: bytes, chunk: Chunk, number: int, size: int, context: bytes, index: int) -> bool:
    """Whether a chunk lies under a signed root."""
    length = min(CHUNK_WORDS, size - number * CHUNK_WORDS)
    if chunk.words.shape != (length,) or chunk.words.dtype != WORD or not chunk.words.flags.c_contiguous:
        return False
    leaf = merkle.chunk_leaf(chunk.words, context, index, number)
    top = merkle.climb(leaf, number, merkle.chunks(size), chunk.path)
    return top is not None and merkle.bound(size, top) == root
