"""What the coordinator does about complaints: whom the next attempts at a round leave out.

A complaint says that a box of another member is of no use. Which of the two lies cannot be shown without opening
other members' shares, so nobody is convicted: for the rest of the round no dispute stands between two members that both
take part (see `secagg.blame`). The next round begins with everybody.
"""

from collections.abc import Collection, Iterable

from ..charter.charter import Charter
from ..secagg import blame
from ..secagg.messages import NONSENSE, OFFER, SEAL, Complaint
from ..secagg.refused import require
from ..secagg.wire import peek

# The code of an attempt that ended so that the next is made without one side of a dispute.
DISPUTED = "round.disputed"
_SAID = {
    SEAL: "does not open",
    NONSENSE: "holds no shares that it committed to",
    OFFER: "offers another secret than it committed to",
}


def left_out(
    charter: Charter, complaints: Iterable[bytes], online: Collection[int], withheld: Collection[int] = ()
) -> tuple[int, ...]:
    """Whom to leave out of an attempt.

    Args:
        complaints: the COMPLAINT messages of the round's earlier attempts, checked when they came.
        online: indices of the members that could take part.
        withheld: indices of those that complained in a round, and did not answer to the end of a later attempt at it.

    Returns:
        Indices, ascending; none where too few would be left: then the attempt is made with everybody.
    """
    read = [_read(message) for message in complaints]
    out = blame.left_out(read, len(charter.members), charter.secagg.threshold, withheld)
    left = set(online) - set(out)
    return out if len(left) >= charter.secagg.min_survivors else ()


def authors(complaints: Iterable[bytes]) -> set[int]:
    """Indices of those that complained."""
    return {_read(message).index for message in complaints}


def require_settled(
    charter: Charter,
    complaints: Iterable[bytes],
    online: Collection[int],
    uploaded: Iterable[int],
    withheld: Collection[int] = (),
) -> None:
    """End an attempt, before anybody signs, that a dispute spoils and that one without some of its members may mend.

    That is so where a member that should be left out has uploaded: otherwise it could keep another out of the sum of
    every round by one bad box. And where the members that complained are missing for a sum.

    Guarantees: every attempt that ends so brought a dispute between two members that had none before, since no dispute
    stands between two members that take part. So these attempts come to an end.

    Args:
        complaints: of this attempt and the round's earlier ones. online: indices of the members that take part.
        uploaded: indices of those whose upload counts. withheld: as `left_out` had it for this attempt.

    Raises:
        Refused: "round.disputed".
    """
    leaving = set(left_out(charter, complaints, online, withheld)) & set(online)
    here = set(uploaded)
    spoiled = bool(leaving & here) or (bool(leaving) and len(here) < charter.secagg.min_survivors)
    require(not spoiled, DISPUTED, "a member complained of another; again without one of them")


def describe(charter: Charter, complaints: Iterable[bytes]) -> str:
    """The complaints in words, by name; empty where there are none."""
    names = [member.name for member in charter.members]
    read = sorted({(found.index, found.accused, found.reason) for found in map(_read, complaints)})
    return ", ".join(
        f"{names[index]} says that what {names[accused]} sealed for it {_SAID.get(reason, 'is of no use')}"
        for index, accused, reason in read
    )


def _read(message: bytes) -> Complaint:
    return Complaint.decode(peek(message)[0])
