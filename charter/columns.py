"""How an organization's file of records is read: its form, and which column holds what."""

from typing import Literal

from .documents import Document, Line

Form = Literal["instruction", "messages", "completion"]
# Which answers of a conversation are learned.
Turns = Literal["last", "all"]


class Columns(Document):
    """Which column of a file holds what; None where the file has none.

    Attributes:
        prompt, answer: of the forms instruction and completion.
        unit: the privacy unit's id. None makes each row its own unit.
        messages: of the form messages: a list of {"role", "content"} objects (in CSV: that list as JSON).
        system: a system message that stands before the prompt; may be empty in a row.
        label: the class of the answer; may be empty in a row.
    """

    prompt: Line | None = None
    answer: Line | None = None
    unit: Line | None = None
    messages: Line | None = None
    system: Line | None = None
    label: Line | None = None
