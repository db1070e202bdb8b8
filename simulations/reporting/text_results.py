"""What a report says of an arm whose answers are free text, and the examples that it shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field

from ...data.records import PLAIN, Record

_STRICT: Final = ConfigDict(extra="forbid", allow_inf_nan=False)
Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Perplexity = Annotated[float, Field(ge=1.0)]


@dataclass(frozen=True)
class TextResult:
    """Of one arm; over seeds all are means.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of all answer tokens of the test set; None for what is no
            language model.
        chrf: chrF2 of the generated answers, over 100; None: none was generated.
        rouge_l: mean F1 of their longest common subsequence of words with the right answer; None likewise.
        chrf_seeds: chrf of each seed.
    """

    __pydantic_config__ = _STRICT

    perplexity: Perplexity | None
    chrf: Rate | None = None
    rouge_l: Rate | None = None
    chrf_seeds: tuple[Rate, ...] = ()


@dataclass(frozen=True)
class TextExample:
    """One test row and what models answered; None where an arm was not run."""

    __pydantic_config__ = _STRICT

    prompt: str
    reference: str
    base: str | None
    federated: str | None


def read_text(kept: dict[str, Any] | None) -> TextResult | None:
    """What an arm's file holds."""
    if kept is None:
        return None
    chrf = kept.get("chrf")
    # Rounding can leave exp of a mean that is zero a last digit below one.
    perplexity = None if kept["perplexity"] is None else max(1.0, kept["perplexity"])
    return TextResult(perplexity, chrf, kept.get("rouge_l"), () if chrf is None else (chrf,))


def mean_text(results: Sequence[TextResult | None]) -> TextResult | None:
    """The mean over seeds or organizations; None where one has no result, and so each number in it."""
    present = [result for result in results if result is not None]
    if not present or len(present) != len(results):
        return None

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == len(values) else None

    return TextResult(
        mean([result.perplexity for result in present]),
        mean([result.chrf for result in present]),
        mean([result.rouge_l for result in present]),
        tuple(value for result in present for value in result.chrf_seeds),
    )


def drawn(rows: Sequence[Record], count: int) -> list[int]:
    """Places of so many rows, evenly spread."""
    return list(range(0, len(rows), max(1, len(rows) // count)))[:count] if count else []


def examples(
    rows: Sequence[Record], base: Sequence[str] | None, federated: Sequence[str] | None, count: int
) -> tuple[TextExample, ...]:
    """Some of the rows that were answered, side by side."""
    return tuple(
        TextExample(
            shown_prompt(rows[place]),
            rows[place].answer,
            None if base is None else base[place],
            None if federated is None else federated[place],
        )
        for place in drawn(rows, count)
    )


def shown_prompt(record: Record) -> str:
    """The last turn before the answer."""
    return record.prompt[0].content if record.prompt[0].role == PLAIN else record.prompt[-1].content


def markdown(name: str, shown: Sequence[TextExample]) -> str:
    """The examples as a table."""
    lines = [
        f"# {name}: {len(shown)} test rows, drawn evenly, with what was generated",
        "",
        "Greedy answers. Nobody chose among them.",
        "",
        "| prompt | right answer | base model | federation |",
        "|---|---|---|---|",
    ]
    for one in shown:
        cells = (one.prompt, one.reference, one.base, one.federated)
        lines.append("| " + " | ".join("not run" if cell is None else _cell(cell) for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    """Text that stays text, and in its cell, whatever a model wrote."""
    for mark in "\\`*_[]<>|&":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split()) or "(nothing)"
