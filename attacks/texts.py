"""Text canaries: records with random answers, trained by the real trainer; what the model learned of each.

Nothing of the product is replaced here: rows, per-unit gradients, sampling, noise and the server's optimizer are as in
a run. The guesser has the first and the last adapter and the canaries' texts: much less than with gradient canaries,
and what somebody who gets the model could do.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..data.units import Units
from ..privacy.sampling import SystemRandomness
from ..privacy.terms import PrivacyTerms
from ..strategies.base import Strategy, split
from ..strategies.paid import contribute
from ..training.adapter import initial
from ..training.trainer import Trainer
from .subject import lora, random_rows, tiny_base

PROMPT_TOKENS: Final = 6
ANSWER_TOKENS: Final = 4
_PHYSICAL_TOKENS = 4096
_RANK = 8


def memorized(
    terms: PrivacyTerms,
    strategy: Strategy,
    canaries: int,
    rounds: int,
    generator: np.random.Generator,
    watch: Callable[[int], None] = lambda done: None,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Flip a coin for each canary, train on those that are in, and measure what was learned of every one.

    Args:
        terms: privacy; disabled terms give the control that shows what the audit could see.
        strategy: turns sums into adapters. canaries: m, each its own unit. rounds: how many.
        generator: coins and texts. watch: called with the rounds that are done.

    Returns:
        [m], which were in; float64 [m], by how many nats a token each answer's loss fell.
    """
    rows = random_rows(canaries, PROMPT_TOKENS, ANSWER_TOKENS, generator)
    joined = generator.random(canaries) < 0.5
    # At least one unit: a trainer without data is refused. For m canaries the chance is 2^-m.
    inside = [int(row) for row in np.flatnonzero(joined)] or [0]
    units = Units(tuple(f"canary {row}" for row in inside), tuple((row,) for row in inside))
    trainer = Trainer(tiny_base(1), lora(_RANK), rows, units, _PHYSICAL_TOKENS, None)
    first = adapter = initial(trainer.schema, 1)
    state, randomness = strategy.start(trainer.schema.dimension), SystemRandomness()
    batch = max(1.0, terms.sample_rate * canaries / 2)
    for number in range(rounds):
        part = strategy.trained(trainer.schema, number)
        total, _ = split(contribute(trainer, strategy, adapter, part, terms, batch, randomness))
        adapter, state = strategy.apply(adapter, state, part, total, batch, 1)
        watch(number + 1)
    last = strategy.published(adapter, state)
    fell = [trainer.loss(first, [row]) - trainer.loss(last, [row]) for row in range(canaries)]
    return joined, np.array(fell)
