"""What the coordinator does about complaints: whom the next attempts at a round leave out.

A complaint says that a box of another member holds no shares. Which of the two lies cannot be shown without opening
other members' shares, so nobody is convicted: for the rest of the round no dispute stands between two members that both
take part (see `secagg.blame`). The next round begins with everybody.
"""

from collections.abc import Collection, Iterable

from ..charter.charter import Charter
from ..secagg import blame
from ..secagg.messages import NONSENSE, SEAL, Complaint
from ..secagg.refused import require
from ..secagg.wire import peek


def left_out(charter: Charter, complaints: Iterable[bytes], online: Collection[int]) -> tuple[int, ...]:
    """Whom to leave out of an attempt.

    Args:
        complaints: the COMPLAINT messages of the round's earlier attempts, checked when they came.
        online: indices of the members that could take part.

    Returns:
        Indices, ascending; none where too few would be left: then the attempt is made with everybody.
    """
    read = [_read(message) for message in complaints]
    out = blame.left_out(read, len(charter.members), charter.secagg.threshold)
    left = set(online) - set(out)
    return out if len(left) >= charter.secagg.min_survivors else ()


def require_settled(
    charter: Charter, complaints: Iterable[bytes], online: Collection[int], uploaded: Iterable[int]
) -> None:
    """End an attempt, before anybody signs, in which a member that should be left out has uploaded.

    Otherwise a member could keep another out of the sum of every round by one bad box.

    Raises:
        Refused: "round.disputed".
    """
    out = left_out(charter, complaints, online)
    require(not set(out) & set(uploaded), "round.disputed", "a member complained of another; again without one of them")


def describe(charter: Charter, complaints: Iterable[bytes]) -> str:
    """The complaints in words, by name; empty where there are none."""
    names = [member.name for member in charter.members]
    read = sorted({(found.index, found.accused, found.reason) for found in map(_read, complaints)})
    said = {SEAL: "does not open", NONSENSE: "holds no shares"}
    return ", ".join(
        f"{names[index]} says that what {names[accused]} sealed for it {said[reason]}"
        for index, accused, reason in read
    )


def _read(message: bytes) -> Complaint:
    return Complaint.decode(peek(message)[0])
