"""Tables that the data cards share."""

from collections import Counter
from collections.abc import Sequence

from ..packages import PinnedPackage
from ..records import Record


def counts_table(organizations: dict[str, list[Record]], test: Sequence[Record], labels: Sequence[str]) -> str:
    """A Markdown table: rows of each label at each organization and in the test set."""
    columns = {**{name: Counter(row.label for row in rows) for name, rows in organizations.items()}}
    columns["test"] = Counter(row.label for row in test)
    lines = ["| label | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [
        f"| {label} | " + " | ".join(str(column[label]) for column in columns.values()) + " |" for label in labels
    ]
    lines.append("| all | " + " | ".join(str(column.total()) for column in columns.values()) + " |")
    return "\n".join(lines)


def pin_line(package: PinnedPackage | None) -> str:
    """Name, version and hash of the wheel, or that the caller gave none."""
    return "not pinned" if package is None else f"`{package}`, SHA-256 of the wheel `{package.sha256}`"
