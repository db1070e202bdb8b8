"""Recompute pieces of a round's sum from what an audit window kept. Reads only; needs no key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..secagg import merkle
from ..secagg.audit import audit_piece
from ..secagg.control import CONTROL_WORDS
from ..secagg.merkle import PIECE_WORDS
from ..secagg.pieces import Piece, length_of
from ..secagg.record import Verified
from ..secagg.refused import Refused
from .findings import audit_blame
from .kept import SUM, kept_rounds, kept_words
from .transcripts import CheckedRun, check


@dataclass(frozen=True)
class AuditedPiece:
    """One piece: its number, how many words it has, and why it does not hold (None: it does)."""

    number: int
    words: int
    fault: Refused | None


def pieces_of(verified: Verified) -> int:
    """How many pieces the vectors of a round have."""
    return merkle.pieces(CONTROL_WORDS + verified.plan.encoding.words)


def audit(run: Path, verified: Verified, numbers: Sequence[int]) -> Iterator[AuditedPiece]:
    """Recompute pieces of a round, in the order given.

    The paths to the signed roots are computed from the kept files, which are read whole once. So an upload or a sum
    that was changed anywhere is a fault of every piece; a recorded sum that is false is one of the pieces it is false
    in.

    Args:
        run: the run directory. verified: the round's record. numbers: below `pieces_of`.

    Raises:
        UserError: a kept file cannot be read.
    """
    kept = {index: _Vector.of(run, verified, index) for index in verified.survivors}
    uploads = {index: vector for index, vector in kept.items() if vector is not None}
    total = _Vector.of(run, verified, SUM)
    size = CONTROL_WORDS + verified.plan.encoding.words
    for number in numbers:
        cut = {index: vector.piece(number) for index, vector in uploads.items()}
        result = Piece(np.zeros(0, dtype=np.uint64), ()) if total is None else total.piece(number)
        fault = None
        try:
            audit_piece(verified, number, cut, result)
        except Refused as no:
            fault = no
        yield AuditedPiece(number, length_of(number, size), fault)


def audited(
    run: Path, checked: CheckedRun, record: Verified, numbers: Sequence[int]
) -> tuple[list[AuditedPiece], list[str]]:
    """Recompute pieces of a round, and say in words what does not hold.

    Args:
        run: the run directory. checked: its transcript. record: of the round. numbers: of the pieces.

    Raises:
        UserError: nobody promised to keep the round's uploads, or not for so long.
    """
    number, kept = record.plan.round, kept_rounds(run)
    promised = number in checked.promised
    pieces: list[AuditedPiece] = []
    if number in kept:
        pieces = list(audit(run, record, numbers))
        wrong = [
            f"round {number + 1}, piece {one.number}: {audit_blame(checked.charter, one.fault)}"
            for one in pieces
            if one.fault is not None
        ]
    elif promised:
        wrong = [f"round {number + 1}: the coordinator does not have its uploads any more"]
    else:
        named = ", ".join(str(one + 1) for one in kept)
        window = checked.charter.secagg.audit_rounds
        mend = f"choose among {named}" if kept else f"the charter's secagg.audit_rounds is {window}"
        raise UserError(f"round {number + 1}: its uploads are not kept", mend)
    if wrong and promised and number not in check(run, checked.charter).promised:
        raise UserError(f"round {number + 1}: the run went on, and its uploads were deleted", "audit a later round")
    return pieces, wrong


@dataclass(frozen=True)
class _Vector:
    """A kept vector and the paths of all its pieces."""

    words: NDArray[np.uint64]
    paths: Sequence[tuple[bytes, ...]]

    @classmethod
    def of(cls, run: Path, verified: Verified, name: int | str) -> "_Vector | None":
        words = kept_words(run, verified.plan.round, name)
        if words is None:
            return None
        index = name if isinstance(name, int) else merkle.SUM
        return cls(words, merkle.paths(merkle.piece_leaves(words, verified.ctx2, index)) if len(words) else ())

    def piece(self, number: int) -> Piece:
        """As `pieces.piece_of`, with the paths at hand; empty where the file is too short."""
        path = self.paths[number] if number < len(self.paths) else ()
        return Piece(self.words[number * PIECE_WORDS :][:PIECE_WORDS], path)
