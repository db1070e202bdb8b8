"""Free text: how likely the right answers of a test set are, token by token, and which greedy decoding writes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from ..data.records import Record
from ..training.adapter import untouched
from ..training.trainer import Trainer
from .not_finite import require_finite

_LARGEST_NLL = 700.0  # its exponential is still a number


@dataclass(frozen=True)
class TextScores:
    """Results of one adapter on one test set.

    Attributes:
        nll: mean over all answer tokens, end of turn included, of -log of their probability among all tokens, in nats.
        exact: share of rows whose answer greedy decoding writes, token by token.
        by_group: the same by `Record.group`, sorted by name; rows without a group are left out.
    """

    nll: float
    exact: float
    by_group: dict[str, float]

    @property
    def perplexity(self) -> float:
        """exp(nll): among how many tokens the model is in doubt."""
        return math.exp(min(self.nll, _LARGEST_NLL))


def text_scores(trainer: Trainer, records: Sequence[Record], adapter: NDArray[np.float32] | None) -> TextScores:
    """Score one adapter.

    Args:
        trainer: over the test set, which knows what the frozen layers give of it.
        records: the same rows.
        adapter: float32 [d]; None scores the base model untouched.

    Raises:
        NotFiniteError: a likelihood is not finite.

    Edge cases: the adapter stays set in the model afterwards.
    """
    used = untouched(trainer.model) if adapter is None else adapter
    losses, right = trainer.answered(used, range(len(records)))
    nll = float(losses.sum() / sum(answer_sizes(trainer)))
    require_finite(nll)
    return TextScores(nll, float(right.mean()), by_group(right.tolist(), [record.group for record in records]))


def answer_sizes(trainer: Trainer) -> list[int]:
    """Tokens of each right answer, end of turn included."""
    return [len(example.tokens) - example.answer_start for example in trainer.examples]


def by_group(right: Sequence[bool], groups: Sequence[str]) -> dict[str, float]:
    """Share of right rows by group, sorted by name, without the rows that have none."""
    found: dict[str, list[bool]] = {}
    for hit, group in zip(right, groups, strict=True):
        if group:
            found.setdefault(group, []).append(hit)
    return {group: fmean(found[group]) for group in sorted(found)}
