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
    steps: int | None = None,
) -> Vector:
    """This round's contribution, float64 [plan.encoding.dimension]: noised, then the fraction that will be cut.

    Args:
        trainer: over this organization's records. adapter: float32 [d]. part: what of it the round trains.
        terms: the charter's. batch: this organization's public expected batch. plan: of the round, for the encoding.
        steps: that were charged.

    Guarantees:
        With privacy enabled a vector comes back whatever is in the data and the adapter: where training fails, that of
        a step without records. Nothing but the end of the process can prevent an answer.

    Raises:
        UserError: only where privacy is disabled, and training failed or moved nothing.
    """
    lengths = [length for length, _ in plan.encoding.segments[:-1]]
    started = time.monotonic()
    try:
        contribution = contribute(trainer, strategy, adapter, part, terms, batch, SystemRandomness(), steps)
        _require_fitting(contribution, sum(lengths))
    except Exception:
        if not terms.enabled:
            raise
        log.exception("round %d: training failed after its charge; noise alone is sent", plan.round + 1)
        contribution = _without_records(strategy, adapter, part, terms, batch, sum(lengths))
    if not terms.enabled and not contribution[: lengths[0]].any():
        raise Refusal("round.unmoved", "training changed nothing", "check the LoRA targets")
    log.info("round %d: the step took %.1f seconds", plan.round + 1, time.monotonic() - started)
    return np.concatenate([contribution, [_cut(contribution, plan, lengths)]])


def _without_records(
    strategy: Strategy, adapter: Adapter, part: Part, terms: PrivacyTerms, batch: float, size: int
) -> Vector:
    """What the strategy sends of no records; noise of the plan's size where one of one's own fails at that too."""
    try:
        sent = contribute(_NoRecords(), strategy, adapter, part, terms, batch, SystemRandomness())
        _require_fitting(sent, size)
    except Exception:
        log.exception("the strategy fails without records too; noise alone is sent")
        return noised(np.zeros(size), terms)
    return sent


def _require_fitting(contribution: Vector, size: int) -> None:
    check_finite(contribution, "the trained contribution")
    if contribution.shape != (size,):
        raise ValueError("a contribution of another size than the plan's")


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
