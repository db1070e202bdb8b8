"""What a record is, and what every record of a set must satisfy. Reading a person's file: `files.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError

ROLES = ("system", "user", "assistant")
PLAIN = "text"
"""Role of a prompt that is continued as plain text, without a chat template (form "completion")."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is one of `ROLES`, or `PLAIN`."""

    role: str
    content: str


@dataclass(frozen=True)
class Record:
    """One training or test example as text.

    Attributes:
        prompt: the turns before the answer.
        answer: the text that the model learns to write, never empty.
        unit: id of the privacy unit (a person, a document, or the row itself).
        label: the class of the answer where there is one, else empty.
        group: a tag for results by group (a firm, a hospital), else empty.
    """

    prompt: tuple[Message, ...]
    answer: str
    unit: str
    label: str = ""
    group: str = ""


def check_labels(records: Sequence[Record], labels: Sequence[str]) -> None:
    """Every record's label is one of those agreed on.

    Raises:
        UserError: a record has another label, or none; it names the first row (from 1) and how many there are.
    """
    known = set(labels)
    strange = [number for number, record in enumerate(records, 1) if record.label not in known]
    if strange:
        found = records[strange[0] - 1].label
        raise UserError(
            f"row {strange[0]}: the label {found[:40]!r} is not one of the {len(known)} agreed on "
            f"({len(strange)} such rows)",
            "correct the label, drop the row, or agree on the label with all members",
        )
