"""The baseline printed beside every result: TF-IDF and logistic regression on the same records.

It often beats a small language model on a small corpus. What federation brings is the gap between federated, alone and
pooled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..data.records import Record
from ..errors import UserError
from ..spelling import plain

MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class Baseline:
    """Accuracy of the baseline.

    Attributes:
        accuracy: share of test rows whose label is right, in [0, 1].
        by_group: the same for each `Record.group`, sorted by name; rows without a group are left out.
        rows: how many rows it was trained on.
    """

    accuracy: float
    by_group: dict[str, float]
    rows: int


def tfidf_baseline(train: Sequence[Record], test: Sequence[Record]) -> Baseline:
    """Train on words and pairs of words of the last turn before the answer; predict `Record.label`.

    Args:
        train: records with labels.
        test: records with labels.

    Raises:
        UserError: scikit-learn is missing; a set is empty; a record has no label; no text holds a word.

    Guarantees: deterministic; labels are compared by `spelling.plain`; a label that is not in the training set is never
        predicted and counts as wrong.
    Edge cases: with one label in the training set, that label is predicted everywhere.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise UserError("the baseline needs scikit-learn", "install cotune[study]") from None
    for name, records in (("training", train), ("test", test)):
        if not records or any(not record.label for record in records):
            raise UserError(
                f"the {name} set has no label in every row", "give each record a label, or skip the baseline"
            )
    labels = {plain(record.label) for record in train}
    if len(labels) == 1:
        return _score([*labels] * len(test), test, len(train))
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")  # noqa: S106
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=MAX_ITERATIONS))
    try:
        model.fit([_text(record) for record in train], [plain(record.label) for record in train])
    except ValueError as error:
        raise UserError(f"the baseline cannot be trained ({str(error)[:80]})", "skip the baseline") from None
    predicted = [str(label) for label in model.predict([_text(record) for record in test])]
    return _score(predicted, test, len(train))


def _text(record: Record) -> str:
    return record.prompt[-1].content


def _score(predicted: Sequence[str], test: Sequence[Record], rows: int) -> Baseline:
    right = [label == plain(record.label) for label, record in zip(predicted, test, strict=True)]
    groups: dict[str, list[bool]] = {}
    for hit, record in zip(right, test, strict=True):
        if record.group:
            groups.setdefault(record.group, []).append(hit)
    by_group = {name: sum(hits) / len(hits) for name, hits in sorted(groups.items())}
    return Baseline(sum(right) / len(right), by_group, rows)
