"""A proof that the coordinator signed a false sum, in one file that anybody with the roster can check.

It is the round's record, one piece of every survivor's masked upload and that piece of the sum, each with its path.
The survivors signed the roots of the uploads and the coordinator the root of the sum, so nobody can make such a file
but by a hash collision, or where the coordinator did what it says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from . import merkle
from .audit import audit_piece
from .control import CONTROL_WORDS
from .merkle import PIECE_WORDS
from .pieces import Piece, check_bare, read_piece, under, write_piece
from .plan import Plan
from .record import RoundRecord, Verified, verify
from .refused import Refused, require
from .roster import Roster
from .wire import MAX_MESSAGE, Reader, Writer, peek

_MAGIC = b"cotune-evidence-1\n"
# A record, and a piece of 16 KiB with its path for each of 200 members and the sum.
MAX_EVIDENCE = 2 * MAX_MESSAGE
# What `audit_piece` says only where the coordinator recorded what it cannot have computed honestly.
FALSE: Final = frozenset({"sum.control", "sum.range", "audit.result"})


@dataclass(frozen=True)
class Evidence:
    """What shows that a recorded sum is false in one piece.

    Attributes:
        record: the RECORD message. number: of the piece.
        uploads: the piece of every survivor's upload; empty where `result` alone can be no sum.
        result: the piece of the sum under the recorded result.
    """

    record: bytes
    number: int
    uploads: Mapping[int, Piece]
    result: Piece

    def encode(self) -> bytes:
        """Content of the file."""
        writer = Writer().fixed(_MAGIC, len(_MAGIC)).blob(self.record).uint(self.number, 4)
        owners = tuple(sorted(self.uploads))
        writer.indices(owners)
        for owner in owners:
            write_piece(writer, self.uploads[owner])
        return bytes(write_piece(writer, self.result))

    @classmethod
    def decode(cls, raw: bytes) -> "Evidence":
        """Strict parse; Refused("evidence.format", "wire.*")."""
        reader = Reader(raw, MAX_EVIDENCE)
        require(raw.startswith(_MAGIC), "evidence.format", "this is not evidence about a sum")
        reader.fixed(len(_MAGIC))
        record, number = reader.blob(), reader.uint(4)
        uploads = {owner: read_piece(reader) for owner in reader.indices()}
        result = read_piece(reader)
        reader.end()
        return cls(record, number, uploads, result)


def evidence_of(
    record: bytes, verified: Verified, number: int, uploads: Mapping[int, Piece], total: NDArray[np.uint64]
) -> Evidence:
    """The evidence about a piece for which `spot_checks` refused a sum.

    Args:
        record: the RECORD message, `verified` what it says. uploads: see `Evidence`.
        total: the bare sum as it was handed out, uint64 [8 + encoding.words].
    """
    leaves = merkle.piece_leaves(total, verified.ctx2, merkle.SUM)
    result = Piece(total[number * PIECE_WORDS :][:PIECE_WORDS], merkle.path(leaves, number))
    return Evidence(record, number, uploads, result)


def false_sum(raw: bytes, roster: Roster) -> Verified:
    """What evidence proves: that the coordinator of this roster signed a record whose result is false.

    A record that an honest coordinator signs has the hash of a sum that it computed from the signed uploads and could
    decode. So there are two proofs: a piece under the recorded result that no sum can hold (its own doing, whatever the
    members sent); and signed uploads whose sum, freed of the masks that the record reveals, is something else or no
    sum. Everything else that can be wrong with the pieces or the record may be the work of who hands it in.

    Args:
        raw: content of the file. roster: of the charter.

    Returns:
        The record, of the run and after the head that its own plan names.

    Raises:
        Refused: "evidence.none" where it proves nothing; "evidence.format", "wire.*" or the code of the record's part
            that does not hold.
    """
    evidence = Evidence.decode(raw)
    plan = Plan.open(RoundRecord.decode(peek(evidence.record)[0]).plan, roster)
    verified = verify(evidence.record, roster, plan.run, plan.prev_head)
    require(_proves(evidence, verified), "evidence.none", "it shows no false sum")
    return verified


def _proves(evidence: Evidence, verified: Verified) -> bool:
    """Whether the piece shows a false sum."""
    number, result, encoding = evidence.number, evidence.result, verified.plan.encoding
    size = CONTROL_WORDS + encoding.words
    if not under(verified.record.result, result, number, size, verified.ctx2, merkle.SUM):
        return False
    try:
        check_bare(result.words, number, encoding, len(verified.survivors))
        audit_piece(verified, number, evidence.uploads, result)
    except Refused as no:
        return no.code in FALSE
    return False
