"""The arm that asks no organization: the same adapter, trained on public rows whose right answers are public too.

What the federation brings is what it has beyond this. No privacy is spent and nothing is noised; every row joins every
round, and clipping, strategy and initial adapter are those of the charter.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..conf.schema import Settings
from ..data.corpora.partition import Corpus
from ..data.units import each_row
from ..errors import UserError
from ..privacy.sampling import SystemRandomness
from ..strategies.agreed import strategy_of
from ..strategies.base import Adapter, split
from ..training.schema import initial
from .consortium import Consortium
from .progress import Advance
from .states import states_folder, trainer_of

PASSES = 3
"""Rounds are so many times the charter's: a step without noise costs nothing but time. Not tuned on any rows."""


def train_on_public(
    settings: Settings, own: Path, consortium: Consortium, corpus: Corpus, going_on: Advance
) -> tuple[int, Adapter]:
    """Train; how many rounds, and the adapter that would be published.

    Args:
        own: the run's folder. corpus: with answered rows.
        going_on: called before each round; what it raises ends the training.
    """
    charter, rows = consortium.charter, each_row(corpus.answered)
    folder = states_folder(settings, own)
    trainer = trainer_of(settings, consortium.base, consortium.lora, rows, folder, going_on)
    strategy, terms = strategy_of(charter), replace(charter.privacy.without_noise, sample_rate=1.0)
    adapter, state = initial(trainer.schema, charter.model.initial_seed), strategy.start(trainer.schema.dimension)
    batch, rounds = float(len(rows)), PASSES * charter.rounds
    for number in range(rounds):
        going_on(0)
        part = strategy.trained(trainer.schema, number)
        contribution = strategy.local(trainer, adapter, part, terms, batch, SystemRandomness())
        adapter, state = strategy.apply(adapter, state, part, split(contribution)[0], batch, 1)
    published = strategy.published(adapter, state)
    if not np.isfinite(published).all():
        raise UserError("training on public rows did not stay finite", "lower strategy.learning_rate")
    return rounds, published
