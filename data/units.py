"""Privacy units: which rows stand or fall together, and what the privacy ledger knows a data set by."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..privacy.holdings import Holdings
from ..spelling import plain, plain_id
from .records import Record
from .template import Example


@dataclass(frozen=True)
class Units:
    """The units of a data set.

    Attributes:
        ids: distinct canonical forms (`spelling.plain_id`), in the order of first appearance.
        rows: for each unit the indices of its rows, ascending; together a partition of all rows.
        respelled: how many of the units have rows under more than one spelling of their id.
    """

    ids: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    respelled: int = 0

    @property
    def note(self) -> str:
        """What whoever holds the data should hear once; empty: nothing. It holds no id."""
        if not self.respelled:
            return ""
        what = "1 unit id is" if self.respelled == 1 else f"{self.respelled} unit ids are"
        return f"{what} spelled in more than one way in these records; the spellings of an id are taken as one unit"


def group(examples: Iterable[Example | Record]) -> Units:
    """Group rows by their unit, however its id is spelled: a person under two spellings is clipped and drawn as one.

    Raises:
        ValueError: an id in which nothing is to be seen.
    """
    spelled: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        spelled.setdefault(example.unit, []).append(index)
    spellings: dict[str, list[str]] = {}
    for spelling in spelled:
        spellings.setdefault(plain_id(spelling), []).append(spelling)
    if "" in spellings:
        raise ValueError("a row without a unit id")
    rows = (sorted(index for spelling in each for index in spelled[spelling]) for each in spellings.values())
    respelled = sum(len(each) > 1 for each in spellings.values())
    return Units(tuple(spellings), tuple(map(tuple, rows)), respelled)


def each_row(records: Sequence[Record]) -> list[Record]:
    """The same records, each its own unit: protection for one row instead of one person or document."""
    return [replace(record, unit=f"{record.unit}#{number}") for number, record in enumerate(records, 1)]


def holdings(records: Sequence[Record], unit: str | None) -> Holdings:
    """What a data set holds, for the privacy ledger: digests of each record's texts and of each unit's id.

    A record has two: of its prompt, by which it is told again, and of its prompt with the answer.

    Args:
        records: at least one.
        unit: what one unit is, e.g. "patient", where the ids come from a column of the organization's own. None where
            each row is its own unit: such an id is a place in a file, and tells nothing about who is in the row.

    Guarantees: the order of rows, repeated rows and whatever `spelling` takes as the same change nothing; neither do
        the label column, the form that the records were read in, and system messages. A record that is in two data sets
        is shared by them, whatever else they hold and whatever its answer is there.
    Edge cases: in a prompt a changed word or letter case makes another record, and so does a turn more or less; the
        ledger bounds what data spend, not an author who rewrites them.
    """
    texts = [_of_texts(record) for record in records]
    names = set() if unit is None else {row.unit for row in records}
    ids = {_digest("unit", [plain_id(unit or ""), plain_id(name)]) for name in names}
    return Holdings.of((prompt for prompt, _ in texts), ids, (whole for _, whole in texts))


def prompt_of(record: Record) -> tuple[str, ...]:
    """The canonical texts that a record is told by, whatever its answer: those of the turns before it."""
    # An instruction to the model is changed between runs, and the record about a person is still the same one.
    turns = [turn for turn in record.prompt if turn.role != "system"] or record.prompt
    return tuple(plain(turn.content) for turn in turns)


def _of_texts(record: Record) -> tuple[bytes, bytes]:
    """Of the prompt, and of the prompt with the answer."""
    prompt = prompt_of(record)
    return _digest("prompt", prompt), _digest("record", [*prompt, plain(record.answer)])


def _digest(kind: str, texts: Sequence[str]) -> bytes:
    return hashlib.sha256(f"cotune {kind} 4".encode() + json.dumps(texts).encode()).digest()
