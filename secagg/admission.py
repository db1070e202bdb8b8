"""The organization's own view of a plan: what it holds against every fact the server claims."""

from dataclasses import dataclass

from .encoding import Encoding
from .journal import Journal
from .plan import Plan
from .refused import require
from .roster import Roster


@dataclass(frozen=True)
class Expected:
    """What an organization knows without the server.

    Attributes:
        run: 16 bytes; last: the newest (round, attempt) it took part in, (-1, -1) before the first.
        model_hash, schema_hash, dp_hash: 32 bytes of what is actually loaded or signed here, never of a message.
        dimension, encoding: of the vector that it will send.
        prev_head: head of the transcript that it holds. now: Unix seconds of its own clock.
        latest: Unix seconds beyond which no honest plan puts its deadline.
    """

    run: bytes
    last: tuple[int, int]
    model_hash: bytes
    schema_hash: bytes
    dp_hash: bytes
    dimension: int
    encoding: Encoding
    prev_head: bytes
    now: int
    latest: int


def admit(message: bytes, roster: Roster, expected: Expected, journal: Journal) -> Plan:
    """The plan of a PLAN message, if this organization may act under it.

    Raises:
        Refused: "wire.*", "encoding.*" or "plan.*", the latter one code for each fact.
    """
    plan = Plan.open(message, roster)
    require(plan.run == expected.run, "plan.run", "the plan is for another run")
    newer = (plan.round, plan.attempt) > expected.last
    require(newer, "plan.replay", f"round {plan.round + 1} attempt {plan.attempt + 1} does not come after the last")
    burned = journal.survived(plan.run, plan.round)
    require(not burned, "plan.burned", f"survivors of round {plan.round + 1} were already signed: it is burned")
    require(plan.model_hash == expected.model_hash, "plan.model", "the plan is for another model than the one loaded")
    require(plan.schema_hash == expected.schema_hash, "plan.schema", "the plan is for another charter or adapter")
    require(plan.dp_hash == expected.dp_hash, "plan.privacy", "the plan is for other privacy terms")
    require(plan.encoding.dimension == expected.dimension, "plan.dimension", "the plan is for another dimension")
    require(plan.encoding == expected.encoding, "plan.encoding", "the plan changes clips or lanes")
    require(plan.prev_head == expected.prev_head, "plan.head", "the plan extends another transcript")
    timely = expected.now < plan.deadline <= expected.latest
    require(timely, "plan.deadline", "the plan's deadline has passed, or is too far away")
    return plan
