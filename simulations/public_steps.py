"""Steps over public rows: every row in every round, clipped as the charter has it, and nothing noised."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..errors import UserError
from ..privacy.sampling import SystemRandomness
from ..privacy.terms import PrivacyTerms
from ..strategies.base import Adapter, Strategy, split
from ..strategies.paid import contribute
from ..training.trainer import Trainer


def public_steps(
    trainer: Trainer,
    strategy: Strategy,
    terms: PrivacyTerms,
    adapter: Adapter,
    rounds: int,
    before_round: Callable[[], None],
    mend: str,
) -> Adapter:
    """What a strategy makes of a trainer's rows, all of them in every round, clipped and without noise.

    Args:
        before_round: called before each round; what it raises ends the training.
        mend: what the user can do where the adapter does not stay finite.

    Raises:
        UserError: the adapter does not stay finite.
    """
    state, batch = strategy.start(trainer.schema.dimension), float(len(trainer.units.ids))
    open_terms = replace(terms.without_noise, sample_rate=1.0)
    for number in range(rounds):
        before_round()
        part = strategy.trained(trainer.schema, number)
        contribution = contribute(trainer, strategy, adapter, part, open_terms, batch, SystemRandomness())
        adapter, state = strategy.apply(adapter, state, part, split(contribution)[0], batch, 1)
    published = strategy.published(adapter, state)
    if not np.isfinite(published).all():
        raise UserError("training on public rows did not stay finite", mend)
    return published
