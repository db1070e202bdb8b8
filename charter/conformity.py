"""Whether a round was run on a charter's terms, as its plan shows.

Anybody who holds the charter can tell: a coordinator that continues a run, an auditor who reads a transcript.
"""

from ..secagg.plan import Plan
from .charter import Charter


def conforms(charter: Charter, plan: Plan) -> bool:
    """Whether the plan has the charter's hashes and quorum, and is of one of its rounds.

    Roster and suite are not looked at: no plan opens under another roster.
    """
    agreed = charter.secagg
    hashes = (plan.dp_hash, plan.schema_hash) == (charter.dp_hash(), charter.schema_hash())
    quorum = (plan.threshold, plan.min_survivors) == (agreed.threshold, agreed.min_survivors)
    return hashes and quorum and plan.round < charter.rounds
