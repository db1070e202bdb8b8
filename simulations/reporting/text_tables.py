"""The table of a run whose answers are free text: other columns than those of labels."""

from typing import Final

from .report import Arm, Report
from .text_results import TextResult

MISSING: Final = "not run"
UNMEASURED: Final = "-"
HEADERS: Final = ("model", "perplexity", "chrF", "ROUGE-L", "exact answers")
NEAREST: Final = "nearest training term (TF-IDF), pooled"


def is_text(report: Report) -> bool:
    """Whether the report is of free text."""
    data = report.config.get("data", {})
    return bool(data.get("task") == "text")


def cells(arm: Arm, seeds: int) -> tuple[str, ...]:
    """The four number cells of an arm. An arm that was not run shows no number anywhere."""
    if not arm.ran or arm.text is None:
        return MISSING, UNMEASURED, UNMEASURED, UNMEASURED
    text = arm.text
    return (
        UNMEASURED if text.perplexity is None else f"{text.perplexity:.2f}",
        _chrf(text, arm, seeds),
        _hundredths(text.rouge_l),
        f"{100 * (arm.accuracy or 0.0):.1f}%",
    )


def _chrf(text: TextResult, arm: Arm, seeds: int) -> str:
    words = _hundredths(text.chrf)
    values = text.chrf_seeds
    if len(values) > 1 and len(values) == len(arm.seeds):
        words += f" ({100 * min(values):.1f}-{100 * max(values):.1f})"
    return words if len(arm.seeds) == seeds else f"{words} [{len(arm.seeds)} of {seeds} seeds]"


def _hundredths(value: float | None) -> str:
    """Both scores are read on a scale of 100."""
    return UNMEASURED if value is None else f"{100 * value:.1f}"


def generation_sentence(report: Report) -> str:
    """What was measured on which rows."""
    whole = f"Perplexity a token and exact answers: on all {report.test_rows} test rows."
    if report.generation_rows == 0:
        return f"{whole} chrF and ROUGE-L: not measured."
    return f"{whole} chrF and ROUGE-L: greedy answers to {report.generation_rows} of them."


def share_sentence(report: Report) -> str | None:
    """How far from the base model to the ceiling without privacy the federation came; None where one is missing."""
    arms = report.arms
    texts = [arm.text for arm in (arms.base, arms.federated, arms.pooled_without_privacy)]
    shares = []
    for name, measure in (("chrF", "chrf"), ("ROUGE-L", "rouge_l")):
        values = [value for text in texts if text and (value := getattr(text, measure)) is not None]
        if len(values) == len(texts) and values[2] > values[0]:
            shares.append(f"{100 * (values[1] - values[0]) / (values[2] - values[0]):.0f}% in {name}")
    if not shares:
        return None
    return f"Of the way from the base model to pooled data without privacy the federation comes {' and '.join(shares)}."
