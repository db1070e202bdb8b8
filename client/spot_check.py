"""Whether the sum that was opened is the sum of what the survivors signed: a few pieces of it, of this node's choice.

The record fixes the sum before anybody chooses. The choice follows from a secret of this node and the record, so asking
again never draws anew. A coordinator that withholds a piece loses this node; one whose sum is false has signed it, and
the proof stays here: the node takes no further part in the run, and anybody can check the proof offline.
"""

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..charter.refusal import Refusal
from ..charter.terms import SecAggTerms
from ..secagg import merkle
from ..secagg.evidence import FALSE, evidence_of
from ..secagg.pieces import Piece
from ..secagg.record import Verified
from ..secagg.refused import Refused
from ..secagg.spot_checks import check_pieces, choose, decode_pieces, pieces_for
from .following import words_of
from .home import NodeHome

log = logging.getLogger("cotune.client")


def chosen(home: NodeHome, terms: SecAggTerms, head: bytes, words: int) -> tuple[int, ...]:
    """The pieces that this node checks of a sum of so many words; ascending.

    By the head, which holds the hash of the sum: a record can be signed in many ways, with other members of the quorum,
    and each would draw anew.
    """
    pieces = merkle.pieces(words)
    return choose(home.check_key(), head, pieces, pieces_for(terms.check_fraction, terms.check_probability, pieces))


def check(
    home: NodeHome, terms: SecAggTerms, record: bytes, verified: Verified, body: bytes, vector: NDArray[np.uint64]
) -> bytes:
    """Recompute the chosen pieces of the sum kept in the home from the masked uploads' pieces.

    Args:
        record: the RECORD message of the last round. verified: what it says. body, vector: from the coordinator.

    Returns:
        Empty where all holds; else the proof that the coordinator signed a false sum, which is kept here as well.

    Raises:
        Refusal: "check.none": there is no sum to check. Refused: the pieces are not those that were asked for.
    """
    kept = home.sum()
    if kept is None:
        raise Refusal("check.none", "no sum waits for a check here", "wait for the next round")
    total = words_of(kept)
    numbers = chosen(home, terms, verified.head, len(total))
    found = decode_pieces(body, vector, verified, numbers)
    try:
        check_pieces(verified, numbers, found, total)
    except Refused as fault:
        if fault.code not in FALSE or fault.piece is None:
            raise
        return convict(home, record, verified, fault.piece, found[numbers.index(fault.piece)], total)
    return b""


def convict(
    home: NodeHome,
    record: bytes,
    verified: Verified,
    number: int,
    uploads: Mapping[int, Piece],
    total: NDArray[np.uint64],
) -> bytes:
    """Keep the proof that the coordinator signed a false sum, and return it.

    Args:
        number: the piece that is false. uploads: of the survivors; none where the sum's own piece is no possible sum.
    """
    proof = evidence_of(record, verified, number, uploads, total).encode()
    run = verified.plan.run.hex()
    home.set_evidence(run, proof)
    log.error(
        "run %s round %d: the coordinator signed a sum that is not the sum of the uploads (piece %d); the proof is %s: "
        "give it to the other organizations",
        run,
        verified.plan.round + 1,
        number,
        home.evidence(run),
    )
    return proof
