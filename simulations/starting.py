"""A basis with a start: an adapter trained on public rows and their right answers, from which private rounds go on.

What public rows can teach costs no privacy, so the noised rounds need not teach it. The start follows from the base
model, the basis and the rows, like the basis itself, and stands under the same digest.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..adapter.basis import Basis
from ..adapter.forms import require_basis
from ..adapter.schema import initial, module_of
from ..conf.rates import open_strategy
from ..conf.schema import Settings
from ..data.corpora.corpus import Corpus
from ..data.template import encode_all
from ..data.units import each_row, group
from ..errors import UserError
from ..privacy.terms import PrivacyTerms
from ..training.adapter import LoraSettings, detach
from ..training.base import BaseModel
from ..training.trainer import Trainer
from .public_steps import public_steps


def started(
    settings: Settings, base: BaseModel, lora: LoraSettings, corpus: Corpus, agreed: PrivacyTerms, units: Sequence[int]
) -> Basis:
    """The basis of an adapter's settings, with a start.

    As many rounds as the federation plans, under SGD at the rate that it would have without noise; nothing else of its
    strategy has a part in it.

    Args:
        base: without an adapter, and so again afterwards. lora: with a basis that has no start.
        agreed: the privacy terms. units: that each member declares.

    Raises:
        UserError: no right answers of public rows are known, or training does not stay finite.
    """
    basis = require_basis(lora)
    if not corpus.answered:
        raise UserError(
            "model.basis.start=public, and no right answers of public rows are known",
            "set model.basis.start=zero, or data.public_file",
        )
    with tempfile.TemporaryDirectory() as folder:
        states = Path(folder) if settings.model.cache_features else None
        examples = encode_all(list(each_row(corpus.answered)), base.tokenizer, settings.model.context_length)
        trainer = Trainer(base, lora, examples, group(examples), settings.simulation.physical_batch_tokens, states)
        strategy = open_strategy(settings, agreed, units, basis.moved)
        first = initial(trainer.schema, settings.seed)
        mend = "set model.basis.start=zero"
        adapter = public_steps(trainer, strategy, agreed, first, settings.rounds, lambda: None, mend)
        starts = {module_of(name): part for name, part in trainer.schema.split(adapter).items()}
    detach(base)
    return Basis(
        {path: replace(given, start=starts[path]) for path, given in basis.modules.items()},
        basis.tokens,
    )
