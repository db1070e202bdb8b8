"""What is wrong with a transcript, in words: which round, whose message, which part, and what follows from it.

A member that is named is the one under whose name the message stands. The coordinator checked it before it signed the
record, so it answers for every record that carries its signature and does not hold.
"""

from dataclasses import dataclass

from ..charter.charter import Charter
from ..secagg.refused import Refused

NOBODY, COORDINATOR = "-", "coordinator"
# What a fault in a part of a record means.
_PARTS = {
    "record": "it was changed after the coordinator signed it, or the coordinator never signed it",
    "plan": "the round was not run under the charter's rules",
    "adverts": "under which keys the members took part is not proved",
    "share roots": "whose shares could open the round is not proved",
    "upload headers": "whose uploads are in the sum is not proved",
    "survivors' signatures": "no quorum agreed on whose uploads are in the sum",
    "revealed secrets": "the masks that were taken off are not those that the members put on",
    "control words": "the masks did not cancel, so what was read is no sum",
    "head": "the head does not follow from what the members signed",
}
# Where a code says more than its part.
_CODES = {
    "record.fork": "a round before it is missing, repeated, out of order or replaced",
    "record.run": "it comes from another run",
    "transcript.order": "its round does not come after the round before it",
    "transcript.truncated": "the file ends inside a record, so the last rounds are missing",
    "transcript.format": "the file goes on with something that is no record",
}
_AUDIT = {
    "audit.missing": "the coordinator does not have the upload of {name} any more",
    "audit.upload": "the coordinator: the upload kept for {name} is not the one that {name} signed",
    "audit.sum": "the coordinator: the sum that it kept is not the one in the record",
    "audit.result": "the coordinator: the sum in the record is not the sum of what the members signed",
    "sum.control": "the coordinator: the uploads and the revealed secrets give no sum",
    "sum.range": "the coordinator: the uploads and the revealed secrets give no sum",
}


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        where: "round 3", or the place in the file where the round cannot be read.
        member: name, "coordinator", or "-" where the fault does not say whose.
        part: of the record. code: of the refusal. text: what is wrong. means: what follows.
    """

    where: str
    member: str
    part: str
    code: str
    text: str
    means: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        whose = "" if self.member == NOBODY else f", {self.member}"
        return f"{self.where}{whose}, {self.part}: {self.text} ({self.code}); {self.means}"


def fault_finding(charter: Charter, position: int, round_: int, fault: Refused) -> Finding:
    """What a refused record means.

    Args:
        position: of the record in the file, from 0. round_: as it says, from 0; -1 where that cannot be read.
    """
    where = f"round {round_ + 1}" if round_ >= 0 else f"record {position + 1} of the file"
    part = fault.part or ("file" if fault.code.startswith("transcript.") else "record")
    means = _CODES.get(fault.code) or _PARTS.get(part, "nothing in it is proved")
    if fault.member is not None:
        whose = charter.members[fault.member].name
        if fault.code == "wire.signature":
            means = f"{whose} did not sign what stands there under its name; {means}"
    else:
        whose = NOBODY if part in ("record", "file") else COORDINATOR
    return Finding(where, whose, part, fault.code, _plain(fault), means)


def _plain(fault: Refused) -> str:
    """The refusal's own line, but for those that count rounds from 0."""
    return "a round out of order" if fault.code == "transcript.order" else fault.text


def audit_blame(charter: Charter, fault: Refused) -> str:
    """Who is to blame for a piece that does not hold."""
    name = "a member" if fault.member is None else charter.members[fault.member].name
    return _AUDIT.get(fault.code, f"the coordinator: {fault.text}").format(name=name)
