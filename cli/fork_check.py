"""Whether what an organization's node has seen is in a transcript: how a fork of the history comes to light.

The node keeps the head that it verified last, and in its journal the hash of everything that it signed. The first is in
the chain or not; the second says in which round the histories part, where the node signed in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .findings import COORDINATOR, Finding

if TYPE_CHECKING:
    from ..charter.charter import Charter
    from ..client.chains import Chain
    from ..client.home import Home
    from ..secagg.record import Verified


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


def compare(path: Path, charter: "Charter", verified: "Sequence[Verified]") -> AtHome:
    """Look for a node's head in a chain, and compare what it signed.

    Args:
        path: the organization's home; it is only read. verified: the records that hold, oldest first.

    Raises:
        UserError: the home cannot be read, is of another charter, or has taken part in no run; or there is no record.
    """
    from ..client.home import Home

    home = Home(path)
    chains = _chains(home, charter)
    if not verified:
        raise UserError("the transcript has no record that holds", "leave out --home")
    run, last = verified[0].plan.run.hex(), verified[-1].plan.round + 1
    if run not in chains:
        return AtHome(False, 1, f"the node takes part in run {list(chains)[-1][:12]}, and this is run {run[:12]}")
    chain = chains[run]
    parted = _parted(home, charter, verified)
    if parted:
        return AtHome(False, parted, "this node signed for another outcome of the round: the histories part here")
    heads = {verified[0].plan.prev_head.hex(): 0} | {one.head.hex(): one.plan.round + 1 for one in verified}
    if chain.head in heads:
        at = heads[chain.head]
        return AtHome(
            True, at, f"this node's head is that of round {at} of {last}" if at else "this node is at the start"
        )
    if chain.round >= last:
        ended = f"the transcript ends after round {last}, the node took part in round {chain.round + 1}"
        return AtHome(False, last, f"this node's head is not in it, {ended}")
    return AtHome(False, chain.round + 1, "this node's head is not in it: the histories part here or before")


def _chains(home: "Home", charter: "Charter") -> "dict[str, Chain]":
    from ..charter.charter import load

    if load(home.charter).digest() != charter.digest():
        raise UserError(f"{home.path}: this node signed another charter", "give the charter that it signed")
    chains = home.chains()
    if not chains:
        raise UserError(f"{home.path}: this node has taken part in no run yet", "leave out --home")
    return chains


def _parted(home: "Home", charter: "Charter", verified: "Sequence[Verified]") -> int:
    """The first round, from 1, for which the node signed another statement about survivors; 0: none."""
    from ..client.settings import load
    from ..secagg.journal import SURVIVE, FileJournal
    from ..secagg.keys import survivors_statement
    from ..secagg.messages import Rooted
    from ..secagg.wire import digest

    if not home.journal.exists():  # opening it would create it
        return 0
    index = charter.index_of(load(home.settings).name)
    signed = FileJournal(home.journal).survivals(verified[0].plan.run)
    for one in verified:
        statement = survivors_statement(one.ctx2, one.survivors, [one.roots[i] for i in one.survivors])
        expected = digest(SURVIVE, Rooted(one.ctx2, index, statement).encode())
        if signed.get(one.plan.round, expected) != expected:
            return one.plan.round + 1
    return 0
