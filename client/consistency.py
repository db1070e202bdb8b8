"""What the files of a home say about each other: one that came back from a backup alone, or is gone, is noticed.

Every file here is a memory that protects the organization. The order in which `participation` writes them makes some
of them never behind others; where one is, it is not the one that was written. That a whole home came back from a backup
cannot be seen here.
"""

from ..errors import UserError
from ..secagg.journal import FileJournal
from ..secagg.plan import Plan
from .home import CHAINS, NodeHome
from .pending import Pending

_RESTORE = "restore the newest copy, or set up a node with a new key"
_ROUND_LINES = 5


def require_whole(home: NodeHome, journal: FileJournal) -> None:
    """Refuse to go on where the journal or the chains are older than the other one.

    A run is in the chains before anything is signed in it, and an attempt in the journal before it is in the chains.

    Raises:
        UserError: which of the two files is behind.
    """
    chains, signed = home.chains(), journal.newest()
    for run in signed.keys() - chains.keys():
        raise UserError(f"{home.path / CHAINS}: run {run[:12]}, in which this node signed, is not in it", _RESTORE)
    for run, chain in chains.items():
        if (chain.round, chain.attempt) > signed.get(run, (-1, -1)):
            missing = f"round {chain.round + 1} attempt {chain.attempt + 1} of run {run[:12]}"
            raise UserError(f"{home.journal}: {missing}, in which this node took part, is not in it", _RESTORE)
    # Within one attempt: put back before a signature, the journal would let the node sign another in its place.
    signed_last = max((chain.signed for chain in chains.values()), default=0)
    if journal.size() < signed_last:
        raise UserError(f"{home.journal}: it is shorter than when this node answered last", _RESTORE)
    # Each answer has one line. A node that was killed before it answered leaves one more; a round has five or six.
    if chains and journal.lines_after(signed_last) >= _ROUND_LINES:
        raise UserError(f"{home.path / CHAINS}: it is older than the round journal beside it", _RESTORE)


def belongs(pending: Pending, plan: Plan) -> bool:
    """Whether a contribution is of the plan's run, round, model and charter: attempts at one round may send the same.

    With shared noise ask `may_have_left` as well.
    """
    about = (plan.run.hex(), plan.round, plan.model_hash.hex(), plan.schema_hash.hex())
    return (pending.run, pending.round, pending.model_hash, pending.charter) == about


def may_have_left(pending: Pending, journal: FileJournal) -> bool:
    """Whether an upload was signed since the contribution was made: its masked words may have left."""
    return journal.uploaded(bytes.fromhex(pending.run), pending.round) >= pending.attempt
