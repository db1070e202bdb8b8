"""The arm that asks no organization: the same adapter, trained on public rows whose right answers are public too.

What the federation brings is what it has beyond this. No privacy is spent and nothing is noised; every row joins every
round, and clipping, strategy and initial adapter are those of the charter. Where the basis has a start, the arm is
that: it was trained on these rows, and what the federation has beyond it is what private records bring.
"""

from pathlib import Path

from ..adapter.schema import initial
from ..conf.schema import Settings
from ..data.corpora.corpus import Corpus
from ..data.units import each_row
from ..strategies.base import Adapter
from ..strategies.derived import strategy_of
from .consortium import Consortium
from .progress import Advance
from .public_steps import public_steps
from .states import states_folder, trainer_of

PASSES = 3
"""Rounds are so many times the charter's: a step without noise costs nothing but time. Not tuned on any rows."""


def train_on_public(
    settings: Settings, own: Path, consortium: Consortium, corpus: Corpus, going_on: Advance
) -> tuple[int, Adapter]:
    """Train; how many rounds, and the adapter that would be published: after none the basis' start, if it has one.

    Args:
        own: the run's folder. corpus: with answered rows.
        going_on: called before each round; what it raises ends the training.
    """
    charter, rows = consortium.charter, each_row(corpus.answered)
    first = initial(consortium.schema, charter.model.initial_seed)
    if consortium.lora.basis is not None and consortium.lora.basis.started:
        return 0, first
    folder = states_folder(settings, own)
    trainer = trainer_of(settings, consortium.base, consortium.lora, rows, folder, going_on)
    strategy, rounds = strategy_of(charter), PASSES * charter.rounds
    mend = "lower strategy.learning_rate, or leave public out of simulation.arms"
    return rounds, public_steps(trainer, strategy, charter.privacy, first, rounds, lambda: going_on(0), mend)
