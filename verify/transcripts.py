"""A run's transcript, checked from the keys and terms of a charter alone. Reads only; needs no secret key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..charter.charter import Charter
from ..charter.conformity import conforms
from ..errors import UserError
from ..secagg.record import Verified
from ..secagg.refused import Refused
from ..secagg.transcript import Examined, examine, read
from .findings import Finding, fault_finding
from .kept import read_records


@dataclass(frozen=True)
class CheckedRun:
    """Every record of a transcript, examined, and what ended the reading too early."""

    charter: Charter
    rounds: list[Examined]
    broken: Refused | None

    @property
    def finding(self) -> Finding | None:
        """The first fault."""
        for position, one in enumerate(self.rounds):
            if one.fault is not None:
                return fault_finding(self.charter, position, one.round, one.fault)
        return None if self.broken is None else fault_finding(self.charter, len(self.rounds), -1, self.broken)

    @property
    def verified(self) -> list[Verified]:
        """The records that hold."""
        return [one.verified for one in self.rounds if one.verified is not None]

    def names(self, indices: Sequence[int]) -> list[str]:
        """Members by name."""
        return [self.charter.members[index].name for index in indices]

    @property
    def promised(self) -> list[int]:
        """The rounds whose uploads the coordinator has promised to keep, ascending."""
        window = self.charter.secagg.audit_rounds
        return [one.plan.round for one in self.verified][-window:] if window else []


def check(path: Path, charter: Charter) -> CheckedRun:
    """Examine the records of a transcript file, or of a run directory, against the charter's keys and terms.

    Raises:
        UserError: there is nothing to examine.
    """
    broken: list[Refused] = []

    def records() -> Iterator[bytes]:
        try:
            yield from read(path)
        except Refused as no:
            broken.append(no)

    try:
        source = read_records(path, charter.digest()) if path.is_dir() else records()
        rounds = [_under_charter(one, charter) for one in examine(source, charter.roster())]
    except OSError as problem:
        raise UserError(f"{path}: {problem.strerror}", "give the path of a transcript that you may read") from None
    if not rounds and broken:
        raise UserError(f"{path}: {broken[0].text}", "a run directory and a release each hold a transcript")
    if not rounds:
        raise UserError(f"{path}: no round in it", "wait until a round is committed")
    return CheckedRun(charter, rounds, broken[0] if broken else None)


def _under_charter(one: Examined, charter: Charter) -> Examined:
    """A record that holds, but for a round on other terms than the charter's, does not hold."""

    if one.verified is None or conforms(charter, one.verified.plan):
        return one
    text = "a round on other terms than the charter's"
    return replace(one, verified=None, fault=Refused("plan.terms", text, None, "plan"))
