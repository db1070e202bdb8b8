"""Privacy units: which rows stand or fall together, and what the privacy ledger knows a data set by."""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..privacy.holdings import Holdings
from .records import Record
from .template import Example


@dataclass(frozen=True)
class Units:
    """The units of a data set.

    Attributes:
        ids: distinct, in the order of first appearance.
        rows: for each unit the indices of its rows, ascending; together a partition of all rows.
    """

    ids: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]


def group(examples: Iterable[Example | Record]) -> Units:
    """Group rows by their unit."""
    rows: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        rows.setdefault(example.unit, []).append(index)
    return Units(tuple(rows), tuple(tuple(indices) for indices in rows.values()))


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

    Guarantees: the order of rows, repeated rows, line ends, Unicode forms, invisible characters and runs of white space
        change nothing; neither do the label column, the form that the records were read in, and system messages. A
        record that is in two data sets is shared by them, whatever else they hold and whatever its answer is there.
    Edge cases: in a prompt a changed word or letter case makes another record, and so does a turn more or less; the
        ledger bounds what data spend, not an author who rewrites them.
    """
    texts = [_of_texts(record) for record in records]
    ids = set() if unit is None else {_digest("unit", [unit, _plain(name)]) for name in {row.unit for row in records}}
    return Holdings.of((prompt for prompt, _ in texts), ids, (whole for _, whole in texts))


def _of_texts(record: Record) -> tuple[bytes, bytes]:
    """Of the prompt, and of the prompt with the answer."""
    # An instruction to the model is changed between runs, and the record about a person is still the same one.
    turns = [turn for turn in record.prompt if turn.role != "system"] or record.prompt
    prompt = [_plain(turn.content) for turn in turns]
    return _digest("prompt", prompt), _digest("record", [*prompt, _plain(record.answer)])


def _digest(kind: str, texts: list[str]) -> bytes:
    return hashlib.sha256(f"cotune {kind} 3".encode() + json.dumps(texts).encode()).digest()


def _plain(text: str) -> str:
    """One spelling for what looks the same: compatibility forms composed, every run of white space one space.

    Format characters, which cannot be seen (a zero-width space, a byte order mark, a soft hyphen), are left out.
    """
    text = unicodedata.normalize("NFKC", text)
    if hidden := [letter for letter in set(text) if unicodedata.category(letter) == "Cf"]:
        # One may have stood between a letter and its accent.
        text = unicodedata.normalize("NFKC", text.translate({ord(letter): None for letter in hidden}))
    return " ".join(text.split())
