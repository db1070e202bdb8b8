"""Following the transcript: which of the coordinator's records extend the chain held here, and which may be a fork.

The records come from the coordinator, so each is verified against the head held here before the chain moves.
"""

import logging
from dataclasses import replace

from ..charter.refusal import Refusal
from ..secagg.plan import Plan
from ..secagg.record import RoundRecord, genesis, verify
from ..secagg.refused import Refused
from ..secagg.roster import Roster
from ..secagg.wire import unseal
from .chains import Chain
from .home import Home

log = logging.getLogger("cotune.client")


def follow(chain: Chain, records: tuple[bytes, ...], roster: Roster) -> Chain:
    """The chain after the given records; one without a head starts at the run's beginning.

    A record that does not extend the chain is passed over: it may be an old one. If it is a fork, a plan that builds on
    it names another head and is refused; the node's log says so at once.

    Args:
        chain: where the node stands in the run. records: RECORD messages of that run, oldest first.

    Raises:
        Refused: a record does not hold, or is of another run.
    """
    run = bytes.fromhex(chain.run)
    if not chain.head:
        chain = replace(chain, head=genesis(run, roster).hex())
    others: list[bytes] = []
    for content in records:
        try:
            verified = verify(content, roster, run, bytes.fromhex(chain.head))
        except Refused as refusal:
            if refusal.code != "record.fork":
                raise
            others.append(content)
        else:
            chain = chain.extended(verified.head.hex(), verified.plan.round)
    _tell_forks(chain, others, roster)
    return chain


def follow_last(home: Home, records: tuple[bytes, ...], roster: Roster) -> None:
    """P5, after which no plan follows: move the chain of the run that the records are of.

    Raises:
        Refused: as `follow`. Refusal: the node takes no part in that run.
    """
    if not records:
        return
    run = _opened(records[0], roster)[1].run.hex()
    if run not in home.chains():
        raise Refusal("record.run", "a record of a run that this node takes no part in", "look at the coordinator")
    home.set_chain(follow(home.chain(run), records, roster))


def _tell_forks(chain: Chain, records: list[bytes], roster: Roster) -> None:
    """One warning where records that the coordinator signed neither extend the chain nor are old ones of it."""
    opened = [_opened(content, roster) for content in records]
    forked = [plan.round for record, plan in opened if not chain.knows(record.head.hex(), plan.round)]
    if forked:
        log.warning(
            "run %s: the coordinator sent %d record(s), from round %d on, of another history than verified here "
            "(head %s): it may be a fork, compare transcripts with the other organizations",
            chain.run,
            len(forked),
            min(forked) + 1,
            chain.head,
        )


def _opened(content: bytes, roster: Roster) -> tuple[RoundRecord, Plan]:
    """A record that the coordinator signed, and its plan; nothing else of it is checked."""
    record = RoundRecord.decode(unseal("record", content, roster.coordinator))
    return record, Plan.open(record.plan, roster)
