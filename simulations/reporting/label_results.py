"""Scoring by labels, and what a run's folder keeps of it and of neutral text, as JSON-able values."""

from dataclasses import asdict
from typing import Any

from ...conf.schema import Settings
from ...data.corpora.corpus import Corpus
from ...evaluation.classification import classify_rows
from ...evaluation.labels import Evaluator, LabelScores
from ...evaluation.neutral import forgetting
from ...strategies.base import Adapter
from ...training.adapter import LoraSettings, attach
from ...training.base import BaseModel
from ..consortium import Consortium


def evaluator_of(settings: Settings, base: BaseModel, lora: LoraSettings, corpus: Corpus) -> Evaluator:
    """What scores adapters on the corpus' test rows.

    Raises:
        UserError: as `Evaluator`.
    """
    return Evaluator(
        base,
        lora,
        corpus.test,
        corpus.labels,
        settings.model.context_length,
        settings.simulation.evaluation_batch_tokens,
        settings.model.cache_features,
    )


def label_result(scores: LabelScores, corpus: Corpus) -> dict[str, Any]:
    """The scores of the corpus' test rows, and what they say beyond accuracy."""
    return {
        "accuracy": scores.accuracy,
        "by_group": scores.by_group,
        "nll": scores.nll,
        "classification": asdict(classify_rows(scores.log_likelihoods, corpus.test, corpus.labels)),
    }


def forgotten(consortium: Consortium, adapter: Adapter) -> dict[str, Any]:
    """Neutral text under the base model and under an adapter."""
    return asdict(forgetting(consortium.base, attach(consortium.base, consortium.lora), adapter))
