"""Whether what an organization's node has seen is in a transcript: how a fork of the history comes to light.

The node keeps the head that it verified last, and in its journal the hash of everything that it signed. The first is in
the chain or not; the second says in which round the histories part, where the node signed in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..secagg.journal import SURVIVE, FileJournal
from ..secagg.keys import survivors_statement
from ..secagg.messages import Rooted
from ..secagg.record import Verified
from ..secagg.wire import digest
from .findings import COORDINATOR, Finding


@dataclass(frozen=True)
class Seen:
    """What a node has seen of its charter's runs.

    Attributes:
        home: where its files lie, for messages. index: of the member in the charter.
        runs: run id, hex, to the last round whose plan the node accepted (-1 before the first) and the head that it
            verified last, hex; the run seen last comes last.
        journal: the file of what it signed; it need not exist.
    """

    home: Path
    index: int
    runs: Mapping[str, tuple[int, str]]
    journal: Path


@dataclass(frozen=True)
class AtHome:
    """How a transcript compares with what a node has seen.

    Attributes:
        holds: whether the node's head is in the chain.
        round: of that head, or where the two part, from 1; 0: the beginning.
        text: in words.
    """

    holds: bool
    round: int
    text: str

    def finding(self) -> Finding:
        """As a fault of the run."""
        means = "the coordinator showed this node another history than others, or this is not its newest transcript"
        return Finding(f"round {self.round}", COORDINATOR, "home", "home.head", self.text, means)


def compare(seen: Seen, verified: Sequence[Verified]) -> AtHome:
    """Look for a node's head in a chain, and compare what it signed.

    Args:
        seen: by the node; its files are only read. verified: the records that hold, oldest first.

    Raises:
        UserError: the node has taken part in no run; or there is no record.
    """
    if not seen.runs:
        raise UserError(f"{seen.home}: this node has taken part in no run yet", "leave out --home")
    if not verified:
        raise UserError("the transcript has no record that holds", "leave out --home")
    run, last = verified[0].plan.run.hex(), verified[-1].plan.round + 1
    if run not in seen.runs:
        return AtHome(False, 1, f"the node takes part in run {list(seen.runs)[-1][:12]}, and this is run {run[:12]}")
    round_, head = seen.runs[run]
    parted = _parted(seen, verified)
    if parted:
        return AtHome(False, parted, "this node signed for another outcome of the round: the histories part here")
    heads = {verified[0].plan.prev_head.hex(): 0} | {one.head.hex(): one.plan.round + 1 for one in verified}
    if head in heads:
        at = heads[head]
        return AtHome(
            True, at, f"this node's head is that of round {at} of {last}" if at else "this node is at the start"
        )
    if round_ >= last:
        ended = f"the transcript ends after round {last}, the node took part in round {round_ + 1}"
        return AtHome(False, last, f"this node's head is not in it, {ended}")
    return AtHome(False, round_ + 1, "this node's head is not in it: the histories part here or before")


def _parted(seen: Seen, verified: Sequence[Verified]) -> int:
    """The first round, from 1, for which the node signed another statement about survivors; 0: none."""
    if not seen.journal.exists():  # opening it would create it
        return 0
    signed = FileJournal(seen.journal).survivals(verified[0].plan.run)
    for one in verified:
        statement = survivors_statement(one.ctx2, one.survivors, [one.roots[i] for i in one.survivors])
        expected = digest(SURVIVE, Rooted(one.ctx2, seen.index, statement).encode())
        if signed.get(one.plan.round, expected) != expected:
            return one.plan.round + 1
    return 0
