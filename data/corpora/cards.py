"""What public corpora show of themselves, and what their data cards share."""

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from ..packages import PinnedPackage
from ..records import Record
from .corpus import Shown


def shown_of_public(test: Sequence[Record], card: str) -> Shown:
    """Of a corpus that anybody can fetch: its card, the turns that all prompts begin with, and one prompt."""
    places = zip(*(record.prompt[:-1] for record in test), strict=False)
    common = takewhile(lambda turns: len(set(turns)) == 1, places)
    preamble = tuple((turns[0].role, turns[0].content) for turns in common)
    return Shown(card, preamble, test[0].prompt[-1].content if test else "", test_rows=True)


def themes_list(groups: Sequence[tuple[str, ...]], names: Sequence[str]) -> str:
    """A Markdown list of what dominates at each organization, as `partition.deal` shares the groups out."""
    return "\n".join(f"- {name}: {', '.join(groups[index % len(groups)])}" for index, name in enumerate(names))


def test_table(test: Sequence[Record], labels: Sequence[str]) -> str:
    """A Markdown table: rows of each label in the test set. What an organization holds is not counted in a card."""
    counts = Counter(row.label for row in test)
    lines = ["| label | test rows |", "|---|---:|", *(f"| {label} | {counts[label]} |" for label in labels)]
    return "\n".join([*lines, f"| all | {counts.total()} |"])


def pin_line(package: PinnedPackage | None) -> str:
    """Name, version and hash of the wheel, or that the caller gave none."""
    return "not pinned" if package is None else f"`{package}`, SHA-256 of the wheel `{package.sha256}`"
