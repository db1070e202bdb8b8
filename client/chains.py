"""Where a node stands in each run that it has seen. No run's head is ever forgotten.

A coordinator that begins another run must not make a node take the first run's history from its beginning again: it
could then show it another one. So every run keeps its chain, and going back to a run goes on from its head.
"""

import json
from dataclasses import dataclass, replace

from ..errors import UserError

MOST_RUNS = 1_000
# How many heads a chain remembers behind its newest, to tell an old record from a fork. Older ones are not told apart.
SEEN = 100


@dataclass(frozen=True)
class Chain:
    """Where a node stands in a run.

    Attributes:
        run: run id, hex; empty before the first round.
        head: the transcript's head that the node verified last, hex; empty for a run that it has not seen.
        round: the last round whose plan it accepted, -1 before the first.
        attempt: the attempt of that round.
        charter: digest of the charter that the run is under, hex.
        verified: the round whose record gave `head`, -1 before the first.
        seen: heads that records gave, hex, oldest first, the newest included; at most `SEEN`.
        charged: how many contributions of this node its ledger was charged for. summed: how many of the records are of
            rounds that it joined.
        checked: the round whose sum this node has spot-checked last, -1 before the first.
        signed: how long the journal was, in bytes, when this node last answered.
    """

    run: str = ""
    head: str = ""
    round: int = -1
    attempt: int = -1
    charter: str = ""
    verified: int = -1
    seen: tuple[str, ...] = ()
    charged: int = 0
    summed: int = 0
    checked: int = -1
    signed: int = 0

    def extended(self, head: str, round: int, trained: bool = False) -> "Chain":
        """The chain after a record that extends it, of a round that this node trained in or not."""
        summed = self.summed + trained
        return replace(self, head=head, verified=round, seen=(*self.seen, head)[-SEEN:], summed=summed)

    def knows(self, head: str, round: int) -> bool:
        """Whether a record that does not extend the chain is an old one of it: its head was seen, or is too long ago.

        That its previous head was seen says nothing: so does that of a fork.
        """
        return head in self.seen or round <= self.verified - SEEN


def with_chain(chains: dict[str, Chain], chain: Chain) -> dict[str, Chain]:
    """The chains by run with one put last, in the place of its run's old one.

    Raises:
        UserError: there are `MOST_RUNS` other ones.
    """
    others = {run: held for run, held in chains.items() if run != chain.run}
    if len(others) >= MOST_RUNS:
        raise UserError(f"this node has seen {MOST_RUNS} runs, and remembers every one", "set up a node with a new key")
    return {**others, chain.run: chain}


def encode(chains: dict[str, Chain]) -> bytes:
    """JSON: a list in the order in which the runs were changed last."""
    return json.dumps([vars(chain) for chain in chains.values()]).encode()


def decode(content: bytes) -> dict[str, Chain]:
    """The inverse of `encode`, for the node's own file. Raises ValueError or TypeError where it is not one."""
    chains = [Chain(**{**fields, "seen": tuple(fields["seen"])}) for fields in json.loads(content)]
    return {chain.run: chain for chain in chains}
