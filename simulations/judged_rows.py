"""The rows that models are judged by, and what adapters make of them: one mechanism for every arm of a run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ..conf.schema import Settings
from ..data.corpora.corpus import Corpus
from ..evaluation.labels import Evaluator
from ..training.trainer import Trainer
from . import text_arms
from .by_path import measures
from .consortium import Consortium
from .progress import Advance
from .reporting.label_results import evaluator_of, label_result
from .states import states_folder, trainer_of


class JudgedRows:
    """Test rows, or validation rows where the settings say so.

    Args:
        folder: of the run. console: shows what is scored. advance: told of progress; what it raises ends the work.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        consortium: Consortium,
        corpus: Corpus,
        console: Console,
        advance: Advance,
    ) -> None:
        self._settings, self._folder, self._consortium = settings, folder, consortium
        self._corpus, self._console, self._advance = corpus, console, advance
        self._judges: tuple[Evaluator, Trainer] | None = None
        self._texts: text_arms.TextJudge | None = None

    def measured(self, points: Sequence[tuple[int, Any]]) -> dict[str, Any]:
        """Score adapters on the test set; the last one is the arm's result, all are its curve."""
        tests = len(self._corpus.test)
        scores = []
        with self._console.status(f"preparing {tests} test rows") as shown:
            if not self._corpus.labels:
                return self._text_measured(points, shown.update)
            if self._judges is None:
                base, lora = self._consortium.base, self._consortium.lora
                self._judges = evaluator_of(self._settings, base, lora, self._corpus), self._test_trainer()
            evaluator, judge = self._judges
            for place, (number, adapter) in enumerate(points, 1):
                shown.update(f"scoring adapter {place} of {len(points)} on {tests} test rows")
                scores.append((number, evaluator.score(adapter)))
            last, final = points[-1][1], scores[-1][1]
            zeros = np.zeros(self._consortium.schema.dimension, np.float32)
            exact = judge.exact(zeros if last is None else last, range(tests))
        return {
            **label_result(final, self._corpus),
            "measures": measures(self._settings.simulation.metrics, self._right(), final.predictions),
            "exact_match": exact,
            "curve": [[number, score.accuracy] for number, score in scores],
        }

    def _right(self) -> list[str]:
        return [record.answer for record in self._corpus.test]

    def _text_measured(self, points: Sequence[tuple[int, Any]], tell: Callable[[str], None]) -> dict[str, Any]:
        """An arm's result where answers are free text; its answers with it where the test set may be shown."""
        if self._texts is None:
            self._texts = text_arms.TextJudge(self._settings, self._test_trainer(), self._corpus.test)
        result, answers = self._texts.measured(points, tell)
        if answers:
            rows = text_arms.asked(self._corpus.test, len(answers))
            result["measures"] = measures(self._settings.simulation.metrics, [row.answer for row in rows], answers)
        return result | ({"answers": answers} if answers and self._corpus.shown.test_rows else {})

    def _test_trainer(self) -> Trainer:
        """What answers the test rows word for word; a line of the console says that it is being made."""
        base, lora, folder = (
            self._consortium.base,
            self._consortium.lora,
            states_folder(self._settings, self._folder),
        )
        return trainer_of(self._settings, base, lora, self._corpus.test, folder, self._advance)
