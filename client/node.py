"""An organization's node under one charter, for the length of one message: what it holds and where it stands."""

from dataclasses import replace
from pathlib import Path

from ..charter import policy as policies
from ..charter import signatures, signing
from ..charter.charter import Charter
from ..charter.refusal import Refusal
from ..enrollment.node_settings import load as load_settings
from ..secagg.journal import FileJournal
from ..strategies.base import Strategy
from ..strategies.derived import load_code, strategy_of
from .chains import Chain
from .consistency import require_whole
from .following import Following
from .home import NodeHome

# Charter's digest -> its strategy: a value without state, as the server too keeps one for a whole run.
_STRATEGIES: dict[str, Strategy] = {}
_MOST_STRATEGIES = 16


class Node:
    """Everything in the home, checked against each other.

    Args:
        home: its folder; the caller holds its lock.

    Raises:
        UserError: the home is not usable. Refusal: the charter is not what this organization signed or allows.
    """

    def __init__(self, home: NodeHome) -> None:
        self.home = home
        self.settings = load_settings(home.settings)
        self.policy = policies.load(home.policy)
        self.charter = signatures.load_signed(home.charter, home.signatures)
        self.identity = signing.load_key(home.identity)
        self.roster = self.charter.roster()
        self._require_member()
        self.index = self.charter.index_of(self.settings.name)
        home.require_journal()
        self.journal = FileJournal(home.journal)
        require_whole(home, self.journal)
        policies.check_code(self.charter, self.policy)
        self.strategy = _strategy(self.charter, home.strategy)
        self.following = Following(home, self.charter, self.roster, self.strategy)

    def _require_member(self) -> None:
        if all(member.name != self.settings.name for member in self.charter.members):
            raise Refusal(
                "charter.member", f"{self.settings.name} is not a member", "check this node's name and the charter"
            )

    def take_up(self, chain: Chain) -> Chain:
        """Remember a new run before anything is spent on it, if the policy allows one more under this charter.

        A run stays under the charter that it was begun under: what was made under other terms is not for these.
        """
        known, digest = self.home.chains(), self.charter.digest()
        if chain.run in known:
            if chain.charter != digest:
                raise Refusal("plan.charter", "the run was begun under another charter", "let it begin a new run")
            return chain
        policies.check_runs(self.policy, sum(other.charter == digest for other in known.values()))
        begun = replace(chain, charter=digest)
        self.home.set_chain(begun)
        return begun

    def require_honest(self, run: str) -> None:
        """Refuse, "run.false_sum", a run whose coordinator was caught here."""
        proof = self.home.evidence(run)
        if proof.exists():
            raise Refusal("run.false_sum", f"the coordinator signed a false sum: {proof}", "end this run together")


def _strategy(charter: Charter, code: Path) -> Strategy:
    """`strategy_of`, once a process for each charter; what the policy lets run is loaded from the home."""
    digest = charter.digest()
    if digest not in _STRATEGIES:
        if len(_STRATEGIES) >= _MOST_STRATEGIES:
            _STRATEGIES.clear()
        load_code(charter, code)
        _STRATEGIES[digest] = strategy_of(charter)
    return _STRATEGIES[digest]
