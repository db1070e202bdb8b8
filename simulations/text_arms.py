"""What is measured of an arm where answers are free text: perplexity, and how near its own answers are to the right."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conf.schema import Settings
from ..data.corpora.corpus import Corpus
from ..data.records import Record
from ..evaluation.generate import answers_of
from ..evaluation.overlap import overlap
from ..evaluation.retrieval import nearest_answers
from ..evaluation.texts import TextScores, answer_sizes, by_group, text_scores
from ..spelling import plain
from ..training.adapter import set_flat, untouched
from ..training.trainer import Trainer

# An answer may be so many tokens longer than the longest right one: then the model did not come to an end.
_SPARE_TOKENS = 8

Adapter = NDArray[np.float32]


class TextJudge:
    """Measures adapters on one test set.

    Args:
        settings: how many rows are answered, and in which batches.
        trainer: over the test set. test: the same rows.
    """

    def __init__(self, settings: Settings, trainer: Trainer, test: Sequence[Record]) -> None:
        self._settings, self._trainer, self._test = settings, trainer, test

    def score(self, adapter: Adapter | None) -> TextScores:
        """Likelihoods over all test rows."""
        return text_scores(self._trainer, self._test, adapter)

    def answers(self, adapter: Adapter | None) -> list[str]:
        """Greedy answers to the rows that `asked` gives, through the whole model."""
        trainer = self._trainer
        set_flat(trainer.model, untouched(trainer.model) if adapter is None else adapter)
        return answers_of(
            trainer.model,
            trainer.base.tokenizer,
            asked(self._test, self._settings.simulation.generate_rows),
            self._settings.model.context_length,
            max(answer_sizes(trainer)) + _SPARE_TOKENS,
            self._settings.simulation.evaluation_batch_tokens,
        )

    def measured(
        self, points: Sequence[tuple[int, Adapter | None]], tell: Callable[[str], None]
    ) -> tuple[dict[str, Any], list[str]]:
        """The result of an arm, from its adapters by round, and its answers to the rows that were asked."""
        scores = []
        for place, (number, adapter) in enumerate(points, 1):
            tell(f"scoring adapter {place} of {len(points)} on {len(self._test)} test rows")
            scores.append((number, self.score(adapter)))
        final = scores[-1][1]
        result: dict[str, Any] = {
            "accuracy": final.exact,
            "by_group": final.by_group,
            "nll": final.nll,
            "exact_match": final.exact,
            "curve": [[number, score.perplexity] for number, score in scores],
            "text": {"perplexity": final.perplexity},
        }
        rows = asked(self._test, self._settings.simulation.generate_rows)
        if not rows:
            return result, []
        tell(f"generating the answers to {len(rows)} test rows")
        answers = self.answers(points[-1][1])
        result["text"] |= compared(answers, rows)
        return result, answers


def asked(test: Sequence[Record], count: int) -> list[Record]:
    """So many test rows, evenly spread."""
    return list(test[:: max(1, len(test) // count)][:count]) if count else []


def compared(answers: Sequence[str], rows: Sequence[Record]) -> dict[str, float]:
    """How near answers come to the right ones."""
    found = overlap(answers, [row.answer for row in rows])
    return {"chrf": found.chrf, "rouge_l": found.rouge_l}


def retrieved(corpus: Corpus, count: int) -> dict[str, Any]:
    """The result of the arm without a language model: over all test rows, its overlap over those that are asked."""
    train = [record for own in corpus.organizations.values() for record in own]
    answers = nearest_answers(train, corpus.test)
    right = [plain(answer) == plain(row.answer) for answer, row in zip(answers, corpus.test, strict=True)]
    text: dict[str, Any] = {"perplexity": None}
    if rows := asked(corpus.test, count):
        near = {id(row): answer for row, answer in zip(corpus.test, answers, strict=True)}
        text |= compared([near[id(row)] for row in rows], rows)
    return {
        "accuracy": sum(right) / len(right),
        "by_group": by_group(right, [row.group for row in corpus.test]),
        "text": text,
    }


def said(result: dict[str, Any]) -> str:
    """An arm's result in a line."""
    text = result["text"]
    words = [f"exact answers {100 * result['accuracy']:.1f}%"]
    if text["perplexity"] is not None:
        words.insert(0, f"perplexity {text['perplexity']:.2f}")
    if "chrf" in text:
        words += [f"chrF {100 * text['chrf']:.1f}", f"ROUGE-L {100 * text['rouge_l']:.1f}"]
    return ", ".join(words)
