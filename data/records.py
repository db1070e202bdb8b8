"""What a record is, and what every record of a set must satisfy. Reading a person's file: `files.py`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..spelling import plain, respelled

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
    """Every record's label is one of those agreed on, however it is spelled.

    Raises:
        UserError: a record has another label, or none; it names the first row (from 1) and how many there are.
    """
    known = {plain(label) for label in labels}
    forms = {label: plain(label) for label in {record.label for record in records}}
    strange = [number for number, record in enumerate(records, 1) if forms[record.label] not in known]
    if strange:
        found = records[strange[0] - 1].label
        raise UserError(
            f"row {strange[0]}: the label {found[:40]!r} is not one of the {len(known)} agreed on "
            f"({len(strange)} such rows)",
            "correct the label, drop the row, or agree on the label with all members",
        )


def check_distinct(labels: Iterable[str], where: str) -> None:
    """No two of these labels are the same in another spelling: scores would be split between them.

    Args:
        where: they come from, for the message.

    Raises:
        UserError: it names two spellings of one label, with their hidden characters escaped.
    """
    for spellings in respelled(labels).values():
        first, second = (ascii(label[:40]) for label in spellings[:2])
        raise UserError(f"{where}: {first} and {second} are one label in two spellings", "spell it in one way")
