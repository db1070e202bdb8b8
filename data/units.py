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
    """What a data set holds, for the privacy ledger: a digest of each record's texts and of each unit's id.

    Args:
        records: at least one.
        unit: what one unit is, e.g. "patient", where the ids come from a column of the organization's own. None where
            each row is its own unit: such an id is a place in a file, and tells nothing about who is in the row.

    Guarantees: the order of rows, repeated rows, line ends, Unicode forms and runs of white space change nothing;
        neither do labels, the form that the records were read in, and system messages. A record that is in two data
        sets has one digest in both, whatever else they hold.
    Edge cases: a changed word or letter case makes another record; the ledger bounds what data spend, not an author who
        rewrites them.
    """
    digests = {_of_texts(record) for record in records}
    if unit is not None:
        digests |= {_digest("unit", [unit, _plain(name)]) for name in {record.unit for record in records}}
    return Holdings.of(digests)


def _of_texts(record: Record) -> bytes:
    # An instruction to the model is changed between runs, and the record about a person is still the same one.
    turns = [turn for turn in record.prompt if turn.role != "system"] or record.prompt
    return _digest("record", [_plain(text) for text in (*(turn.content for turn in turns), record.answer)])


def _digest(kind: str, texts: list[str]) -> bytes:
    return hashlib.sha256(f"cotune {kind} 2".encode() + json.dumps(texts).encode()).digest()


def _plain(text: str) -> str:
    """One spelling for what looks the same: compatibility forms composed, every run of white space one space."""
    return " ".join(unicodedata.normalize("NFKC", text).split())
