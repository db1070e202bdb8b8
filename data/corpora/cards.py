"""What the data cards share."""

from collections import Counter
from collections.abc import Sequence

from ..packages import PinnedPackage
from ..records import Record


def test_table(test: Sequence[Record], labels: Sequence[str]) -> str:
    """A Markdown table: rows of each label in the test set. What an organization holds is not counted in a card."""
    counts = Counter(row.label for row in test)
    lines = ["| label | test rows |", "|---|---:|", *(f"| {label} | {counts[label]} |" for label in labels)]
    return "\n".join([*lines, f"| all | {counts.total()} |"])


def pin_line(package: PinnedPackage | None) -> str:
    """Name, version and hash of the wheel, or that the caller gave none."""
    return "not pinned" if package is None else f"`{package}`, SHA-256 of the wheel `{package.sha256}`"
