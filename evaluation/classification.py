"""What label scores say beyond accuracy: how sure it is, which classes it comes from, and what probabilities are worth.

The 95% interval is Wilson's (1927) for independent rows; rows of one unit are not quite that, so it is a little too
narrow where a test set holds several of a unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter
from scipy.special import softmax
from scipy.stats import binomtest

from ..data.records import Record
from ..errors import UserError
from .labels import right_columns

CONFIDENCE: Final = 0.95
BINS: Final = 15
_STRICT: Final = ConfigDict(extra="forbid", allow_inf_nan=False)

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class ByClass:
    """One label: `rows` are those whose right label it is. Without any row, or prediction, what is undefined is 0."""

    __pydantic_config__ = _STRICT

    precision: Rate
    recall: Rate
    f1: Rate
    rows: Count


@dataclass(frozen=True)
class Classification:
    """One model on one test set.

    Attributes:
        interval: 95% interval of the accuracy over test rows (Wilson).
        macro_f1: mean of the labels' F1, of labels that have a test row.
        calibration_error: expected calibration error of the softmax over the candidates, 15 bins of equal width.
        by_class: each candidate label, in order.
        confusion: rows are right labels, columns predicted ones, both in that order; counts.
    """

    __pydantic_config__ = _STRICT

    interval: tuple[Rate, Rate]
    macro_f1: Rate
    calibration_error: Rate
    by_class: dict[str, ByClass]
    confusion: tuple[tuple[Count, ...], ...]


def classify(
    log_likelihoods: NDArray[np.floating], right: NDArray[np.integer], labels: Sequence[str]
) -> Classification:
    """Measure the scores of m labels on n rows.

    Args:
        log_likelihoods: [n, m], finite. right: [n], the column of each row's right label. labels: m names.

    Raises:
        UserError: scikit-learn is missing. ValueError: no rows, or sizes that differ.

    Edge cases: ties go to the label listed first.
    """
    try:
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
    except ImportError:
        raise UserError("measuring a simulation needs scikit-learn", "pip install 'cotune[study]'") from None
    if not len(right) or log_likelihoods.shape != (len(right), len(labels)):
        raise ValueError(f"scores of shape {log_likelihoods.shape} for {len(right)} rows and {len(labels)} labels")
    places, found = np.arange(len(labels)), log_likelihoods.argmax(axis=1)
    every = precision_recall_fscore_support(right, found, labels=places, zero_division=0.0)
    by_class = {
        label: ByClass(float(precision), float(recall), float(f1), int(rows))
        for label, precision, recall, f1, rows in zip(labels, *every, strict=True)
    }
    hits = found == right
    within = binomtest(int(hits.sum()), len(hits)).proportion_ci(CONFIDENCE, method="wilson")
    return Classification(
        interval=(float(within.low), float(within.high)),
        macro_f1=fmean(one.f1 for one in by_class.values() if one.rows),
        calibration_error=calibration_error(softmax(log_likelihoods, axis=1), hits),
        by_class=by_class,
        confusion=tuple(tuple(map(int, row)) for row in confusion_matrix(right, found, labels=places)),
    )


def classify_rows(
    log_likelihoods: NDArray[np.floating], rows: Sequence[Record], labels: Sequence[str]
) -> Classification:
    """`classify` of the scores of test rows, whose answers are among the labels however they are spelled."""
    return classify(log_likelihoods, right_columns(rows, labels), labels)


def calibration_error(probabilities: NDArray[np.floating], hits: NDArray[np.bool_]) -> float:
    """Expected calibration error (Guo et al. 2017): |accuracy - confidence| over bins of confidence, by their rows.

    Args:
        probabilities: [n, m], of the candidates; confidence is the largest. hits: [n], whether that one is right.
    """
    confidence = probabilities.max(axis=1)
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, hits - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(hits))


def mean_of_classifications(every: Sequence[Classification | None]) -> Classification | None:
    """Of several seeds, or of several organizations: means of all rates, ends of the interval among them, and sums of
    counts. None where one is missing, or where labels differ.
    """
    there = [one for one in every if one is not None]
    if not there or len(there) < len(every) or len({tuple(one.by_class) for one in there}) > 1:
        return None
    return Classification(
        interval=(fmean(one.interval[0] for one in there), fmean(one.interval[1] for one in there)),
        macro_f1=fmean(one.macro_f1 for one in there),
        calibration_error=fmean(one.calibration_error for one in there),
        by_class={label: _mean_class([one.by_class[label] for one in there]) for label in there[0].by_class},
        confusion=tuple(
            tuple(map(int, row)) for row in np.sum([np.array(one.confusion) for one in there], axis=0).tolist()
        ),
    )


_CLASSIFICATION: Final = TypeAdapter(Classification | None)


def read_classification(fields: object) -> Classification | None:
    """The inverse of `dataclasses.asdict`; None stays None."""
    return _CLASSIFICATION.validate_python(fields)


def _mean_class(every: Sequence[ByClass]) -> ByClass:
    return ByClass(
        precision=fmean(one.precision for one in every),
        recall=fmean(one.recall for one in every),
        f1=fmean(one.f1 for one in every),
        rows=sum(one.rows for one in every),
    )
