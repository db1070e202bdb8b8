"""What training without the protocol needs, kept while the settings that it follows from stay: data, model, judges."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..adapter.basis import Basis, load_basis
from ..adapter.peft_files import LoraSettings
from ..conf.rates import planned_strategy, strategy_options
from ..conf.schema import Settings
from ..conf.terms import terms
from ..data.corpora.corpus import Corpus
from ..evaluation.labels import Evaluator
from ..evaluation.not_finite import NotFiniteError
from ..privacy.terms import PrivacyTerms
from ..strategies.base import Adapter
from ..training.base import BaseModel, load_base
from ..training.trainer import Trainer
from .bases import lora_settings
from .code_version import code_version
from .consortium import agreed_basis, declared_units, everything, filled_in
from .corpus import load_corpus
from .progress import Advance
from .rehearsal import AtHome, Rehearsed, at_home, rehearse
from .reporting.label_results import evaluator_of
from .states import states_folder, trainer_of
from .text_arms import TextJudge


class Bench:
    """What points of a sweep share.

    Attributes:
        corpus, trainer: of all organizations' records together; a unit belongs to one of them.
        homes: each organization's units of that trainer.
        evaluator, judge: of the rows that are looked at, by label and word for word.
        texts: of these rows where they are free text, in the evaluator's place; else None.
        lora: what is trained, with its basis.
    """

    corpus: Corpus
    trainer: Trainer
    homes: dict[str, AtHome]
    evaluator: Evaluator
    judge: Trainer
    texts: TextJudge | None
    lora: LoraSettings

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: where bases are kept, and hidden states of a user's own files. It holds nothing that is private if
                the corpus is not.
        """
        self._folder = folder
        self._facts: Any = None
        self._dealt: Any = None

    def open(self, settings: Settings, advance: Advance, loss: Settings | None = None) -> Settings:
        """Make what is not there yet.

        Args:
            loss: the tokens of their basis take the place of those that the adapter's form takes its training loss
                over, for forms that are to be compared; None: each has its own.

        Returns:
            The settings with nothing left open.

        Raises:
            UserError: as `made_basis`, or the model or corpus cannot be had.
        """
        means = settings.simulation
        torch.set_num_threads(means.workers * means.threads_per_worker)
        self._deal(settings)
        settings = filled_in(settings, self.corpus)
        begun = json.dumps(_begun_by(settings), sort_keys=True)
        facts = (settings.model, self._dealt, means.physical_batch_tokens, means.generate_rows, loss, begun)
        if facts == self._facts:
            return settings
        self._facts = None
        base, lora = _base(settings), lora_settings(settings)
        if lora.form != "lora":
            lora = replace(lora, basis=self._basis(settings))
        self.lora = lora if loss is None else _with_loss(lora, self._basis(filled_in(loss, self.corpus)))
        folder = states_folder(settings, self._folder)
        quiet: Advance = lambda steps=1, note="": advance(0, note)  # noqa: E731
        self.trainer = trainer_of(settings, base, self.lora, everything(self.corpus), folder, quiet)
        self.homes = at_home(self.trainer, {name: len(records) for name, records in self.corpus.organizations.items()})
        self.judge = trainer_of(settings, base, self.lora, self.corpus.test, folder, quiet)
        self.texts = None if self.corpus.labels else TextJudge(settings, self.judge, self.corpus.test)
        if self.texts is None:
            self.evaluator = evaluator_of(settings, base, self.lora, self.corpus)
        self._facts = facts
        return settings

    def agreed(self, settings: Settings) -> PrivacyTerms:
        """The terms of the federation that the settings plan, of settings with nothing left open."""
        units = declared_units(settings, self.corpus)
        return terms(settings, max(units.values()), self.trainer.schema.dimension)

    def rehearsed(
        self,
        settings: Settings,
        agreed: PrivacyTerms,
        after_round: Callable[[], None],
        stop: threading.Event,
        score: Callable[[Adapter], float | None] | None = None,
    ) -> Rehearsed:
        """Train what that federation would, by the strategy that the settings name; the rest as `rehearse`."""
        units = declared_units(settings, self.corpus)
        strategy = planned_strategy(settings, self.options(settings, agreed))
        every = settings.simulation.evaluate_every
        return rehearse(
            strategy, self.homes, agreed, units, settings.rounds, settings.seed, after_round, stop, score, every
        )

    def options(self, settings: Settings, agreed: PrivacyTerms) -> dict[str, int | float | str | bool]:
        """The strategy's settings, with optimizer and rate that follow from the noise, as a charter would have them."""
        units = list(declared_units(settings, self.corpus).values())
        return strategy_options(settings, agreed, units, self.lora.moved)

    def scored(self, adapter: Adapter) -> float | None:
        """What a curve shows of an adapter: accuracy, or of free text perplexity.

        None where the model gives no numbers with it: it was trained at too high a rate.
        """
        try:
            if self.texts is None:
                return self.evaluator.score(adapter).accuracy
            return self.texts.score(adapter).perplexity
        except NotFiniteError:
            return None

    def judged(self, adapter: Adapter, score: float | None) -> dict[str, Any]:
        """A point's results, from its last adapter.

        Args:
            score: what `scored` gave; None: the adapter is no number.
        """
        if self.texts is None:
            exact = 0.0 if score is None else self.judge.exact(adapter, range(len(self.corpus.test)))
            return {"accuracy": score or 0.0, "exact": exact}
        if score is None:
            return {"accuracy": 0.0, "exact": 0.0, "text": {"perplexity": None}}
        found, _ = self.texts.measured([(0, adapter)], lambda _said: None)
        return {"accuracy": found["accuracy"], "exact": found["exact_match"], "text": found["text"]}

    def _deal(self, settings: Settings) -> None:
        dealt = (settings.data, settings.seed, settings.simulation.judge)
        if dealt != self._dealt:
            self.corpus, self._dealt = load_corpus(settings), dealt

    def _basis(self, settings: Settings) -> Basis:
        """That of the settings' form, made once and kept."""
        path = self._folder / "bases" / f"{_digest(settings)}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            agreed_basis(settings, _base(settings), lora_settings(settings), self.corpus).save(path)
        return load_basis(path)


def _base(settings: Settings) -> BaseModel:
    """A model of its own for each form and basis: trainers of the form before may still hold the other one."""
    model = settings.model
    return load_base(model, settings.cache, model.device, model.dtype)


def file_facts(settings: Settings) -> list[tuple[int, float]]:
    """Size and time of every file that the settings name: who changes one wants it read again."""
    data = settings.data
    named = (*data.files, data.test_file, data.validation_file, data.public_file)
    return [(file.stat().st_size, file.stat().st_mtime_ns) for file in named if file is not None and file.exists()]


def _digest(settings: Settings) -> str:
    """Of all that a basis follows from."""
    facts = settings.model_dump(mode="json", include={"model": True, "data": True, "seed": True})
    content = json.dumps([code_version(), facts, file_facts(settings), _begun_by(settings)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _begun_by(settings: Settings) -> dict[str, Any]:
    """What a basis' start follows from beside model and data; its rounds have no noise, whatever epsilon is."""
    if settings.model.basis.start != "public":
        return {}
    return settings.model_dump(
        mode="json",
        include={"rounds": True, "privacy": True},
        exclude={"privacy": {"epsilon", "delta"}},
    )


def _with_loss(lora: LoraSettings, loss: Basis) -> LoraSettings:
    """The same form with the loss over the tokens of another basis; plain LoRA takes nothing else of it."""
    own = loss if lora.basis is None else Basis(lora.basis.modules, loss.tokens)
    return replace(lora, basis=own)
