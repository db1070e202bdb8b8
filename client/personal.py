"""After the federation an organization makes an adapter of its own from the shared one, by itself.

Where the charter plans personal steps, they are private steps like those of a round: clipped by unit, with all of the
charter's noise also where that of the rounds was shared, and charged to the ledger before the data are touched. The
noise was calibrated to the rounds and to these steps together, so all of them fit the charter's one epsilon.

Where it plans none, the adapter goes further along what this node has contributed to the later rounds (`sent`). That is
computed from noised vectors that were paid for, without the records, and costs no epsilon.

Nothing of either leaves the home, and the coordinator does not learn that it was done.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np

from ..adapter.forms import as_lora
from ..adapter.peft_files import export_peft
from ..charter import policy as policies
from ..charter import signing
from ..errors import UserError
from ..privacy.accounts import OverBudget
from ..privacy.adversaries import Event, reserve_alone
from ..privacy.ledger import Ledger
from ..privacy.sampling import SystemRandomness
from ..privacy.terms import decode_metrics
from ..strategies.alone import alone, own_gradients
from ..strategies.base import Adapter, Strategy, split
from ..strategies.derived import nominal_batch, schema_of
from ..strategies.dp_fedsgd import DPFedSGD
from ..strategies.model import Model
from ..strategies.paid import contribute
from ..training.guards import check_finite
from .chains import Chain
from .participation import Member
from .sent import found
from .workbench import Workbench, lora_of

log = logging.getLogger("cotune.client")
_HEAD_BYTES: Final = 32
WEIGHT: Final = 2.0
"""Chosen on the hospitals' validation rows (`docs/learning.md`)."""
MOST_WEIGHT: Final = 100.0
Tell = Callable[[int, float], None]


@dataclass(frozen=True, eq=False)
class Personal:
    """An organization's own adapter.

    Attributes:
        adapter: float32 [d], of the charter's form. steps: taken, of those that the charter plans; none by `further`.
        rounds: whose own contributions were followed further.
    """

    adapter: Adapter = field(repr=False)
    steps: int
    rounds: int = 0


class NothingSentError(UserError):
    """There are no own contributions to go along."""


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
        if not self.charter.personal_steps:
            raise UserError(
                "the charter plans no personal steps, so its noise leaves no budget for any",
                "agree on a charter with personal_steps=3",
            )
        chain = self._finished(ended)
        shared = self.following.require_model(chain)
        key = signing.public_hex(self.identity)
        policies.check(self.charter, self.policy, self.settings.name, key, datetime.now(UTC))
        bench = self._workbench()
        policies.check_units(self.charter, self.settings.name, bench.units)
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

    def further(self, weight: float = WEIGHT, ended: bool = False) -> Personal:
        """Go from the shared adapter along this node's own contributions, and export to the home's `personal/`.

        Each of the later rounds' noised gradients of this organization is stepped along once more, at the rate of
        somebody who trains alone. No record is read and nothing is charged.

        Args:
            weight: of these steps, 0 to 100: more serves this organization's kind of records better, others worse.
            ended: the run is over though not all of its rounds were held.

        Raises:
            NothingSentError: this node took part in no later round. UserError: the charter plans personal steps in its
                place, its contributions are no gradients with all of their noise, or the run is not over.
        """
        if not 0 <= weight <= MOST_WEIGHT:
            raise UserError(f"a weight of {weight:g}", f"give one from 0 to {MOST_WEIGHT:g}")
        self._require_further()
        chain = self._finished(ended)
        shared = self.following.require_model(chain)
        sent = found(self.home.sent(), self.charter, chain.run)
        if not sent.rounds:
            raise NothingSentError(
                "this node has contributed to no round of the run's second half", "use the shared adapter"
            )
        lora, batch = lora_of(self.charter, self.home.basis), nominal_batch(self.charter, self.settings.name)
        own = alone(self.charter, batch, lora.moved)
        assert isinstance(own, DPFedSGD)
        published = self.strategy.published(shared.adapter, shared.state).astype(np.float64)
        adapter = (published - weight * own.learning_rate * sent.total / batch).astype(np.float32)
        check_finite(adapter, "the personal adapter")
        self._export(adapter)
        return Personal(adapter, 0, len(sent.rounds))

    def _require_further(self) -> None:
        if self.charter.personal_steps:
            raise UserError(
                f"the charter plans {self.charter.personal_steps} personal steps", "take these: cotune personal HOME"
            )
        if self.charter.privacy.shares is not None:
            raise UserError(
                "the noise is shared: a contribution alone has too little of it to make anything of",
                "agree on a charter with personal_steps=3",
            )
        if not own_gradients(self.charter, self.strategy):
            raise UserError(
                "an adapter can only follow contributions that are noised gradients of a core or of ffa under SGD",
                "agree on a charter with strategy=dp_fedsgd and personal_steps=3",
            )

    def _finished(self, ended: bool) -> Chain:
        """The run that this node took part in last, when it is over."""
        chain = self.home.chain()
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
        noised = contribute(bench.trainer, strategy, model.adapter, part, terms.alone, batch, SystemRandomness())
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
