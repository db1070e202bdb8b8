"""Following the transcript: which of the coordinator's records extend the chain held here, and which may be a fork.

The records come from the coordinator, so each is verified against the head held here before the chain moves.
"""

import logging
from collections.abc import Container
from dataclasses import replace
from functools import lru_cache

from ..secagg.plan import Plan
from ..secagg.record import RoundRecord, Verified, genesis, verify
from ..secagg.refused import Refused
from ..secagg.roster import Roster
from ..secagg.wire import unseal
from .chains import Chain

log = logging.getLogger("cotune.client")


def follow(
    chain: Chain, records: tuple[bytes, ...], roster: Roster, trained: Container[int] = ()
) -> tuple[Chain, Verified | None]:
    """The chain after the given records; one without a head starts at the run's beginning.

    A record that does not extend the chain is passed over: it may be an old one. If it is a fork, a plan that builds on
    it names another head and is refused; the node's log says so at once.

    Args:
        chain: where the node stands in the run. records: RECORD messages of that run, oldest first.
        trained: the rounds that this node trained in.

    Returns:
        The chain, and what was verified of the record that gave its head; None where the last of `records` is another.

    Raises:
        Refused: a record does not hold, or is of another run.
    """
    run = bytes.fromhex(chain.run)
    if not chain.head:
        chain = replace(chain, head=genesis(run, roster).hex())
    others: list[bytes] = []
    newest: Verified | None = None
    for content in records:
        try:
            newest = _verified(content, roster, run, bytes.fromhex(chain.head))
        except Refused as refusal:
            if refusal.code != "record.fork":
                raise
            others.append(content)
        else:
            number = newest.plan.round
            chain = chain.extended(newest.head.hex(), number, number in trained)
    _tell_forks(chain, others, roster)
    if newest is None and records:
        newest = _again(records[-1], roster, chain)
    return chain, newest


def _again(content: bytes, roster: Roster, chain: Chain) -> Verified | None:
    """What a record says that was followed before, where it gave the present head."""
    record, plan = opened(content, roster)
    if record.head.hex() != chain.head or plan.run.hex() != chain.run:
        return None
    return _verified(content, roster, plan.run, plan.prev_head)


# The same record comes with the sum and then with pieces of it, in a simulation to each node of a process. What holds
# of it follows from the arguments alone, so these two are kept by the whole content; what failed is not kept.
@lru_cache(maxsize=2)
def _verified(content: bytes, roster: Roster, run: bytes, prev_head: bytes) -> Verified:
    return verify(content, roster, run, prev_head)


def _tell_forks(chain: Chain, records: list[bytes], roster: Roster) -> None:
    """One warning where records that the coordinator signed neither extend the chain nor are old ones of it."""
    read = [opened(content, roster) for content in records]
    forked = [plan.round for record, plan in read if not chain.knows(record.head.hex(), plan.round)]
    if forked:
        log.warning(
            "run %s: the coordinator sent %d record(s), from round %d on, of another history than verified here "
            "(head %s): it may be a fork, compare transcripts with the other organizations",
            chain.run,
            len(forked),
            min(forked) + 1,
            chain.head,
        )


@lru_cache(maxsize=2)
def opened(content: bytes, roster: Roster) -> tuple[RoundRecord, Plan]:
    """A record that the coordinator signed, and its plan; nothing else of it is checked."""
    record = RoundRecord.decode(unseal("record", content, roster.coordinator))
    return record, Plan.open(record.plan, roster)
