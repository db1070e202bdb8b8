"""Recompute any piece of a round's sum from the masked uploads that the server kept.

The secrets in a round record take the masks off the sum of the uploads and off nothing less. So any organization can
check, piece by piece, that the sum it was told is the sum of what the survivors signed, without a word of any single
update.

Guarantees: a piece that `audit_piece` returns is the sum of the pieces under the signed roots of all survivors, and is
the piece under the recorded `result`. Nothing is said about the other pieces.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from . import masking, merkle
from .control import CONTROL_WORDS
from .masking import WORD
from .merkle import PIECE_WORDS
from .pieces import Piece, check_bare, length_of, under
from .record import Verified
from .refused import require


def audit_piece(verified: Verified, number: int, uploads: Mapping[int, Piece], result: Piece) -> NDArray[np.uint64]:
    """Recompute piece `number` of the bare sum.

    What a dropped member of the hybrid suite had agreed upon is in the record without a proof. Whatever else stands
    there leaves masks on, and the sum can be recorded to match; but then its words are random, and refused.

    Args:
        verified: the round's record, see `record.verify`.
        uploads: the piece of every survivor's masked upload, by index.
        result: the same piece of the sum that the server handed out.

    Returns:
        uint64 [at most PIECE_WORDS], equal to `result.words`.

    Raises:
        Refused: "audit.piece" for a number that the vector does not have; "audit.missing" and "audit.upload" naming the
            organization whose piece is missing or not what it signed; "audit.sum" where the server's piece is not under
            the recorded result; "audit.result" where it is not the sum; "sum.control" and "sum.range" where the
            revealed secrets do not take the masks off.
    """
    size = CONTROL_WORDS + verified.plan.encoding.words
    require(0 <= number < merkle.pieces(size), "audit.piece", f"the vector has {merkle.pieces(size)} pieces")
    total = np.zeros(length_of(number, size), dtype=WORD)
    for index in verified.survivors:
        require(index in uploads, "audit.missing", "a kept upload is missing", index)
        held = under(verified.roots[index], uploads[index], number, size, verified.ctx2, index)
        require(held, "audit.upload", "a kept upload is not the one that its organization signed", index)
        np.add(total, uploads[index].words, out=total)
    held = under(verified.record.result, result, number, size, verified.ctx2, merkle.SUM)
    require(held, "audit.sum", "the sum that was kept is not the one whose hash is in the record")
    masking.apply_within(total, verified.streams, number * PIECE_WORDS)
    check_bare(total, number, verified.plan.encoding, len(verified.survivors))
    same = bool((total == result.words).all())
    require(same, "audit.result", f"piece {number} of the recorded sum is not the sum of the uploads")
    return total
