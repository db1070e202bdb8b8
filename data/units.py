"""Privacy units: which rows stand or fall together, and the name of a data set in the privacy ledger."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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


def fingerprint(records: Sequence[Record]) -> str:
    """SHA-256, hex, of a data set's texts as a multiset.

    Guarantees: neither the order of rows nor other names for units or labels give a data set a fresh account in the
        ledger.
    Edge cases: one changed character or one row more does; the ledger bounds what a data set spends, not an author who
        rewrites it.
    """
    digests = sorted(_digest(record) for record in records)
    return hashlib.sha256(b"cotune data set 1" + b"".join(digests)).hexdigest()


def _digest(record: Record) -> bytes:
    content = [[message.role, message.content] for message in record.prompt], record.answer
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).digest()
