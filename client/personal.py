"""Personal steps: after the federation an organization goes on from the shared adapter, by itself, on its own records.

They are private steps like those of a round: clipped by unit, with all of the charter's noise also where that of the
rounds was shared, and charged to the ledger before the data are touched. The noise was calibrated to the rounds and to
these steps together, so all of them fit the charter's one epsilon. Nothing of them leaves the home, and the coordinator
does not learn that they were taken.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np

from ..charter import policy as policies
from ..charter import signing
from ..errors import UserError
from ..privacy.accounts import OverBudget
from ..privacy.adversaries import Event, reserve_alone
from ..privacy.ledger import Ledger
from ..privacy.sampling import SystemRandomness
from ..privacy.terms import decode_metrics
from ..strategies.agreed import nominal_batch, schema_of
from ..strategies.alone import alone
from ..strategies.base import Adapter, Strategy, split
from ..strategies.model import Model
from ..training.forms import as_lora
from ..training.guards import check_finite
from ..training.peft_files import export_peft
from .chains import Chain
from .participation import Member
from .workbench import Workbench, lora_of

log = logging.getLogger("cotune.client")
_HEAD_BYTES: Final = 32
Tell = Callable[[int, float], None]


@dataclass(frozen=True, eq=False)
class Personal:
    """What personal steps gave.

    Attributes:
        adapter: float32 [d], of the charter's form. steps: taken, of those that the charter plans.
    """

    adapter: Adapter = field(repr=False)
    steps: int


class Individual(Member):
    """A member that goes on alone from what the federation made."""

    def personalize(self, ended: bool = False, tell: Tell = lambda _step, _loss: None) -> Personal:
        """Take the personal steps that are not taken yet, and export the adapter to the home's `personal/`.

        Each step is charged before it and on disk after it: who is killed in between is charged again. Where the budget
        ends before the last step, the adapter is that of the steps that fit.

        Args:
            ended: the run is over though not all of its rounds were held. tell: gets each step's number, from 1, and
                its noised loss.

        Raises:
            UserError: the charter plans no such step, or the run is not over. OverBudget: not even one step fits.
            Refusal: the charter is not what this organization allows.
        """
        chain = self._finished(ended)
        shared = self.following.require_model(chain)
        bench = self._workbench()
        key = signing.public_hex(self.identity)
        policies.check(self.charter, self.policy, self.settings.name, key, datetime.now(UTC), bench.units)
        batch = nominal_batch(self.charter, self.settings.name)
        strategy = alone(self.charter, batch, bench.moved)
        model = self._kept(chain, strategy) or _begun(self.strategy.published(shared.adapter, shared.state), strategy)
        while (taken := sum(model.state.steps)) < self.charter.personal_steps:
            try:
                self._charge(chain, taken, bench)
            except OverBudget as over:
                if not taken:
                    raise
                log.warning("the budget ends after %d personal steps: %s", taken, over)
                break
            model = self._stepped(model, strategy, bench, batch, tell)
            self.home.set_personal(bytes.fromhex(chain.head + self.charter.digest()) + model.encode())
        self._export(model.adapter)
        return Personal(model.adapter, sum(model.state.steps))

    def _finished(self, ended: bool) -> Chain:
        """The run that this node took part in last, when it is over."""
        chain, planned = self.home.chain(), self.charter.personal_steps
        if not planned:
            raise UserError(
                "the charter plans no personal steps, so its noise leaves no budget for any",
                "agree on a charter with personal_steps=3",
            )
        if chain.charter != self.charter.digest() or chain.verified < 0:
            raise UserError(f"{self.home.path}: no run of this charter was followed here", "take part in a run first")
        if chain.verified + 1 < self.charter.rounds and not ended:
            raise UserError(
                f"this node has followed {chain.verified + 1} of {self.charter.rounds} rounds",
                "wait for the last one; if the run has ended early, say so with --ended",
            )
        self.require_honest(chain.run)
        return chain

    def _kept(self, chain: Chain, strategy: Strategy) -> Model | None:
        """The model after the steps that were taken from this head under this charter; None before the first."""
        kept, start = self.home.personal(), 2 * _HEAD_BYTES
        if kept is None or kept[:start] != bytes.fromhex(chain.head + self.charter.digest()):
            return None
        try:
            return Model.decode(kept[start:], self.charter, strategy)
        except ValueError:
            return None

    def _charge(self, chain: Chain, taken: int, bench: Workbench) -> None:
        """Steps go on counting where the rounds end; a step that was charged and never kept is charged again."""
        terms = self.charter.privacy
        if not terms.enabled:
            return
        ledger, number = Ledger(self.home.ledger), self.charter.rounds + taken
        digest = self.charter.digest()
        earlier = {
            row.attempt for row in ledger.charges() if (row.charter, row.run, row.round) == (digest, chain.run, number)
        }
        event = Event(bench.holdings, digest, chain.run, number, len(earlier))
        reserve_alone(ledger, terms, event, 1, min(terms.epsilon, self.policy.max_epsilon))

    def _stepped(self, model: Model, strategy: Strategy, bench: Workbench, batch: float, tell: Tell) -> Model:
        """The model after one private step on this organization's records."""
        terms, taken = self.charter.privacy, sum(model.state.steps)
        part = strategy.trained(schema_of(self.charter), taken)
        noised = strategy.local(bench.trainer, model.adapter, part, terms.alone, batch, SystemRandomness())
        check_finite(noised, "the personal step")
        total, metrics = split(noised)
        adapter, state = strategy.apply(model.adapter, model.state, part, total, batch, 1)
        check_finite(adapter, "the personal adapter")
        tell(taken + 1, decode_metrics(metrics, terms)["loss"])
        return Model(adapter, state)

    def _export(self, adapter: Adapter) -> None:
        """Plain LoRA for PEFT, readable by nobody else."""
        lora, schema, plain = as_lora(lora_of(self.charter, self.home.basis), schema_of(self.charter), adapter)
        export_peft(self.home.personal_folder, plain, schema, lora, self.charter.model.name, 0o600)


def _begun(adapter: Adapter, strategy: Strategy) -> Model:
    return Model(adapter.astype(np.float32), strategy.start(len(adapter)))
