"""What a member contributes once its budget is charged: always a noised vector, whatever happened inside.

The coordinator chooses when, and may have chosen the adapter. If a member answered one thing where its records have a
gradient and another where they have none, the answer would be a test for records that no noise covers. So nothing from
here on depends on the data except through the noised vector: a failure is logged here and noise alone is sent.
"""

import logging
import time

import numpy as np

from ..adapter.part import Part
from ..charter.refusal import Refusal
from ..privacy.mechanism import noised
from ..privacy.sampling import Randomness, SystemRandomness
from ..privacy.terms import METRICS, PrivacyTerms
from ..secagg.plan import Plan
from ..strategies.base import Adapter, PrivateTrainer, Strategy, Vector
from ..strategies.paid import contribute
from ..training.guards import check_finite

log = logging.getLogger("cotune.client")


class _NoRecords:
    """A trainer over no records: the step of an empty sample."""

    def private_sum(
        self, adapter: Adapter, terms: PrivacyTerms, randomness: Randomness, part: Part | None = None
    ) -> Vector:
        return noised(np.zeros((len(adapter) if part is None else part.size) + len(METRICS)), terms)


def train(
    trainer: PrivateTrainer,
    strategy: Strategy,
    adapter: Adapter,
    part: Part,
    terms: PrivacyTerms,
    batch: float,
    plan: Plan,
) -> Vector:
    """This round's contribution, float64 [plan.encoding.dimension]: noised, then the fraction that will be cut.

    Args:
        trainer: over this organization's records. adapter: float32 [d]. part: what of it the round trains.
        terms: the charter's. batch: this organization's public expected batch. plan: of the round, for the encoding.

    Guarantees:
        With privacy enabled a vector comes back whatever is in the data and the adapter: where training fails, that of
        a step without records. Nothing but the end of the process can prevent an answer, or a strategy of one's own
        that fails without records and sends more than one gradient.

    Raises:
        UserError: only where privacy is disabled, and training failed or moved nothing.
    """
    lengths = [length for length, _ in plan.encoding.segments[:-1]]
    started = time.monotonic()
    try:
        contribution = contribute(trainer, strategy, adapter, part, terms, batch, SystemRandomness())
        check_finite(contribution, "the trained contribution")
        if contribution.shape != (sum(lengths),):
            raise ValueError("a contribution of another size than the plan's")
    except Exception:
        if not terms.enabled:
            raise
        log.exception("round %d: training failed after its charge; noise alone is sent", plan.round + 1)
        contribution = _without_records(strategy, adapter, part, terms, batch)
    if not terms.enabled and not contribution[: lengths[0]].any():
        raise Refusal("round.unmoved", "training changed nothing", "check the LoRA targets")
    log.info("round %d: the step took %.1f seconds", plan.round + 1, time.monotonic() - started)
    return np.concatenate([contribution, [_cut(contribution, plan, lengths)]])


def _without_records(strategy: Strategy, adapter: Adapter, part: Part, terms: PrivacyTerms, batch: float) -> Vector:
    """What the strategy sends of no records; noise alone where a strategy of one's own fails at that too."""
    try:
        return contribute(_NoRecords(), strategy, adapter, part, terms, batch, SystemRandomness())
    except Exception:
        if not strategy.one_noised_gradient:
            raise
        log.exception("the strategy fails without records too; noise alone is sent")
        return _NoRecords().private_sum(adapter, terms, SystemRandomness(), part)


def _cut(contribution: Vector, plan: Plan, lengths: list[int]) -> float:
    """The fraction of coordinates that the encoding will cut: of the noised vector, so it says nothing new."""
    bounds = np.repeat([clip for _, clip in plan.encoding.segments[:-1]], lengths)
    return float(np.mean(np.abs(contribution) > bounds))


class AtLeast:
    """A block that takes so many seconds at least, however it ends, so that its end tells nothing below that."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_error: object) -> None:
        time.sleep(max(0.0, self._started + self._seconds - time.monotonic()))
