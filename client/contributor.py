"""A member's contribution to a round: charged first, then trained and noised, then on disk."""

import logging
from dataclasses import replace

from ..charter.refusal import Refusal
from ..privacy.adversaries import Event, reserve
from ..privacy.ledger import Ledger
from ..secagg.plan import Plan
from ..strategies.alone import own_gradients
from ..strategies.base import Adapter, Vector
from ..strategies.derived import nominal_batch, schema_of
from .chains import Chain
from .consistency import belongs, may_have_left
from .contribution import train
from .node import Node
from .pending import Pending
from .sent import with_round
from .workbench import Workbench

log = logging.getLogger("cotune.client")
_ALONE = "data set %s shares no record or unit id with the %d data sets charged before: it has an account of its own"


class Contributor(Node):
    """A node that makes contributions."""

    def _require_unspoiled(self, chain: Chain) -> None:
        """Refuse to train once more where too many contributions to the run came to nothing, whoever spoiled them."""
        spoiled = chain.charged - chain.summed
        if spoiled >= self.policy.max_spoiled_rounds:
            raise Refusal(
                "plan.spoiled",
                f"{spoiled} contributions to this run were charged and came to nothing",
                "find out who spoils them; to go on all the same raise max_spoiled_rounds in policy.yaml",
            )

    def _is_sent_again(self, plan: Plan) -> bool:
        """Whether the contribution on disk, made in an earlier attempt, is that of this plan.

        Sending the same noised vector in another attempt costs no budget: it is the same release. Where the noise is
        shared it would not be: two sums that hold the same share tell more than each. `upload` then keeps none.

        Raises:
            Refusal: "round.pending".
        """
        pending, shared = self.home.pending(), self.charter.privacy.shares is not None
        if pending is None:
            return False
        if belongs(pending, plan) and not (shared and may_have_left(pending, self.journal)):
            return True
        if (pending.run, pending.round, pending.attempt) == (plan.run.hex(), plan.round, plan.attempt):
            # Its charge is used up: an old copy of the file would bring it back beside the second one.
            raise Refusal("round.pending", "this attempt was trained for another model", "wait for the next attempt")
        return False

    def _contribute(self, plan: Plan, adapter: Adapter, bench: Workbench) -> None:
        """Charge the budget, train, and have the noised contribution on disk."""
        steps = self.strategy.steps_per_round
        self._reserve(plan, bench, steps)
        # Counted before it can be sent: who is killed before it joins sends it in the next attempt.
        chain = self.home.chain(plan.run.hex())
        self.home.set_chain(replace(chain, charged=chain.charged + 1))
        own = nominal_batch(self.charter, self.settings.name)
        part = self.strategy.trained(schema_of(self.charter), plan.round)
        contribution = train(bench.trainer, self.strategy, adapter, part, self.charter.privacy, own, plan, steps)
        about = (plan.run.hex(), plan.round, plan.attempt, plan.model_hash.hex(), plan.schema_hash.hex())
        self.home.set_pending(Pending(*about, contribution))

    def _remember(self, plan: Plan) -> None:
        """Keep the contribution for an adapter of this node's own, see `sent`; the round goes on if that fails."""
        if self.charter.personal_steps or not own_gradients(self.charter, self.strategy):
            return
        try:
            contribution = self._own_contribution(plan)
            kept = with_round(self.home.sent(), self.charter, plan.run.hex(), plan.round, contribution)
            if kept is not None:
                self.home.set_sent(kept)
        except Exception as problem:
            log.warning("round %d is not kept for a personal adapter: %s", plan.round + 1, problem)

    def _reserve(self, plan: Plan, bench: Workbench, steps: int) -> None:
        terms = self.charter.privacy
        if not terms.enabled:
            return
        ledger = Ledger(self.home.ledger)
        ledger.require_charged(plan.run.hex(), self._rounds_seen(plan.run))
        event = Event(bench.holdings, self.charter.digest(), plan.run.hex(), plan.round, plan.attempt)
        budget = min(terms.epsilon, self.policy.max_epsilon)
        strangers = ledger.strangers(event.data)
        reserve(ledger, terms, event, steps, budget)
        if strangers:
            log.warning(_ALONE, event.data.name[:12], strangers)

    def _rounds_seen(self, run: bytes) -> set[int]:
        """The newest rounds of a run that this home remembers outside its ledger: by its journal and by its chain."""
        newest = {self.journal.last(run)[0], self.home.chain(run.hex()).round}
        return newest - {-1}

    def _own_contribution(self, plan: Plan) -> Vector:
        """The pending contribution, if it is of the round in progress.

        Another one means that one of the two files came back from a backup.
        """
        pending = self.home.pending()
        if pending is None or not belongs(pending, plan):
            raise Refusal("round.pending", "no contribution for this round is on disk", "wait for the next round")
        return pending.contribution
