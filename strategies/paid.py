"""The trainer as a strategy gets it: so many noised steps as were charged, under the charter's terms, and no more."""

import numpy as np

from ..adapter.part import Part
from ..privacy.sampling import Randomness
from ..privacy.terms import PrivacyTerms
from .base import Adapter, PrivateTrainer, Strategy, Vector


class UnpaidError(Exception):
    """A strategy asked for what the ledger was not charged for; a bug, or worse, in the strategy's code."""


class PaidSteps:
    """A trainer that hands out the steps of one round.

    A strategy that keeps to this interface gets nothing but noised sums, `steps_per_round` of them, each under the
    terms that the members signed. All that it makes of these is post-processing.

    Args:
        trainer: over an organization's records. terms: the charter's. steps: that the round was charged for.
        randomness: of the samples; what a sample amplifies rests on nobody's knowing it.
    """

    def __init__(self, trainer: PrivateTrainer, terms: PrivacyTerms, steps: int, randomness: Randomness) -> None:
        self._trainer, self._terms, self._left, self._randomness = trainer, terms, steps, randomness
        self._last: Vector | None = None

    def private_sum(
        self, adapter: Adapter, terms: PrivacyTerms, randomness: Randomness, part: Part | None = None
    ) -> Vector:
        """One step, see `base.PrivateTrainer`.

        Raises:
            UnpaidError: all are taken, or terms or randomness are others.
        """
        if randomness is not self._randomness:
            raise UnpaidError("the strategy brings randomness of its own for the sample")
        if terms != self._terms:
            raise UnpaidError("the strategy asks for a step under other terms than the charter's")
        if not self._left:
            raise UnpaidError("the strategy asks for more steps than its round was charged for")
        self._left -= 1
        self._last = self._trainer.private_sum(adapter, terms, randomness, part)
        # A copy: a strategy may change in place what it was given.
        return self._last.copy()

    def require_as_noised(self, contribution: Vector) -> None:
        """For a strategy that says so (`Strategy.one_noised_gradient`): it sends what it was given, bit by bit.

        Shared noise and noise on integers are accounted for as they were drawn.

        Raises:
            UnpaidError: it is something else.
        """
        if self._last is None or not np.array_equal(contribution, self._last, equal_nan=True):
            raise UnpaidError("the strategy says that it sends one noised gradient, and sends something else")


def contribute(
    trainer: PrivateTrainer,
    strategy: Strategy,
    adapter: Adapter,
    part: Part,
    terms: PrivacyTerms,
    nominal_batch: float,
    randomness: Randomness,
    steps: int | None = None,
) -> Vector:
    """`strategy.local` on a trainer that gives what was charged; what a member sends, wherever it is simulated too.

    Args:
        trainer: over the organization's records. steps: that were charged; None: as many as the strategy says.
            The others: as `Strategy.local`.

    Raises:
        UnpaidError: the strategy asked for more, or claims what it does not do.
    """
    paid = PaidSteps(trainer, terms, strategy.steps_per_round if steps is None else steps, randomness)
    sent = strategy.local(paid, adapter, part, terms, nominal_batch, randomness)
    if strategy.one_noised_gradient:
        paid.require_as_noised(sent)
    return sent
