"""What a data set holds, as digests: its name in the ledger, what it shares with others, and the ledger's table of it.

A data set is named by its contents, and every charge holds the name. So the chain of charges covers the contents too: a
digest that is taken out, added or exchanged gives another name. The table has one row for a data set, with all digests
in a row: 32 bytes a record on disk and 16 a unit's id, checked by one hash.
"""

import hashlib
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .charges import append_only

# A byte for the kind, then the first 120 bits of a SHA-256. Two different records with one digest would tie data sets
# together that share nobody: more is counted then, never less, and to make such a pair takes 2^60 trials of whoever
# owns the data.
_BYTES = 16
_PROMPT, _ID, _ANSWERED = range(3)
# Of a table of which digest is in which data set, at once in memory.
_CELLS = 2**22
_TABLE = "CREATE TABLE IF NOT EXISTS contents (data_set TEXT PRIMARY KEY NOT NULL, digests BLOB NOT NULL) STRICT"
SCHEMA = (_TABLE, *append_only("contents"))


@dataclass(frozen=True)
class Shared:
    """What two data sets have in common: how many records, told by their prompts, and how many units' ids."""

    records: int
    ids: int

    def __str__(self) -> str:
        """In words, e.g. "1 record and 2 ids"."""
        counted = ((self.records, "record"), (self.ids, "id"))
        return " and ".join(f"{number} {what}{'s' * (number > 1)}" for number, what in counted if number) or "nothing"


@dataclass(frozen=True)
class Holdings:
    """What a data set holds, made by `of`.

    Two data sets are kin when they share a record's prompt or a unit's id. A record that is shared with its answer
    shares its prompt too, so the answers are in the name alone. A data set is kin to itself; that its kin have kin of
    their own says nothing about it.

    Attributes:
        packed: the digests, 16 bytes each, distinct and ascending: of prompts, of units' ids, of records with their
            answers. They are not salted: whoever has them can test a guess, so they stay in the node's home and out of
            every message.
    """

    packed: bytes = field(repr=False)

    @classmethod
    def of(cls, prompts: Iterable[bytes], ids: Iterable[bytes] = (), answered: Iterable[bytes] = ()) -> "Holdings":
        """From digests of at least 16 bytes, in any order, repeated or not.

        Args:
            prompts: of the records without their answers, at least one. Without any a data set would be nobody's kin.
            ids: of the units. answered: of the records with their answers.

        Raises:
            ValueError: there is no prompt, or a digest is shorter.
        """
        kinds = {_PROMPT: set(prompts), _ID: set(ids), _ANSWERED: set(answered)}
        if not kinds[_PROMPT] or any(len(digest) < _BYTES for digests in kinds.values() for digest in digests):
            raise ValueError("a data set holds at least one record, by a digest of at least 16 bytes")
        short = {bytes([kind]) + digest[: _BYTES - 1] for kind, digests in kinds.items() for digest in digests}
        return cls(b"".join(sorted(short)))

    @cached_property
    def name(self) -> str:
        """SHA-256 over all digests, hex: the data set's name in the ledger."""
        return hashlib.sha256(b"cotune data set 3" + self.packed).hexdigest()

    @cached_property
    def telling(self) -> frozenset[bytes]:
        """The digests that make kin, each by itself: of prompts and of ids."""
        return frozenset(_each(self.of_kind(_PROMPT) + self.of_kind(_ID)))

    def is_kin(self, other: "Holdings") -> bool:
        """Whether the two share a prompt or a unit's id."""
        # Versions of one data set are told by their first digests, without a set of all of them for each version.
        return any(not self.telling.isdisjoint(_each(other.of_kind(kind))) for kind in (_PROMPT, _ID))

    def shared(self, other: "Holdings") -> Shared:
        """How many records and ids the two share."""
        return Shared(*(sum(one in self.telling for one in _each(other.of_kind(kind))) for kind in (_PROMPT, _ID)))

    def of_kind(self, kind: int) -> bytes:
        """The digests of one kind, in a row."""
        kinds = self.packed[::_BYTES]
        return self.packed[bisect_left(kinds, kind) * _BYTES : bisect_right(kinds, kind) * _BYTES]


def shared_by_pairs(held: Sequence[Holdings]) -> dict[tuple[int, int], Shared]:
    """What each two of some data sets share, by their places, the smaller first; those that share nothing are left out.

    One pass over all digests: for many versions of a large data set, pair by pair takes a minute.
    """
    records, ids = (_counts([data.of_kind(kind) for data in held]) for kind in (_PROMPT, _ID))
    pairs = np.argwhere(np.triu(records + ids, 1))
    return {(one, other): Shared(int(records[one, other]), int(ids[one, other])) for one, other in pairs.tolist()}


def _counts(packed: Sequence[bytes]) -> NDArray[np.int64]:
    """How many digests each two of some sets have in common, [n, n]."""
    halves = np.frombuffer(b"".join(packed), np.uint64).reshape(-1, 2)
    owners = np.repeat(np.arange(len(packed)), [len(digests) // _BYTES for digests in packed])
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    halves, owners = halves[order], owners[order]
    begins = np.ones(len(owners), np.bool_)
    begins[1:] = (halves[1:] != halves[:-1]).any(axis=1)
    # What only one set holds is in no pair.
    several = ~begins
    several[:-1] |= ~begins[1:]
    return _products(np.cumsum(begins[several]) - 1, owners[several], len(packed))


def _products(places: NDArray[np.int64], owners: NDArray[np.int64], sets: int) -> NDArray[np.int64]:
    """The table of which digest is in which set, times itself, a block of digests at a time."""
    total = np.zeros((sets, sets), np.int64)
    block = max(_CELLS // max(sets, 1), 1)
    for start in range(0, int(places[-1]) + 1 if len(places) else 0, block):
        first, last = np.searchsorted(places, [start, start + block])
        # A sum of at most 2^22 ones: exact in this type, whose products are fast.
        member = np.zeros((block, sets), np.float32)
        member[places[first:last] - start, owners[first:last]] = 1
        total += (member.T @ member).astype(np.int64)
    return total


def _each(packed: bytes) -> Iterable[bytes]:
    return (packed[place : place + _BYTES] for place in range(0, len(packed), _BYTES))


def insert_contents(database: sqlite3.Connection, data: Holdings) -> None:
    """Store what a data set holds; the caller has opened the transaction of its first charge."""
    database.execute("INSERT INTO contents VALUES (?, ?)", (data.name, data.packed))


def read_contents(database: sqlite3.Connection, charged: Collection[str]) -> dict[str, Holdings]:
    """What each data set holds, by its name.

    Args:
        charged: the names in a chain that was checked.

    Raises:
        ValueError: a data set's contents were changed, removed or added by another hand; it says which.
    """
    held = {}
    for name, packed in database.execute("SELECT data_set, digests FROM contents"):
        held[name] = Holdings(packed)
        if held[name].name != name or name not in charged:
            raise ValueError(f"what the privacy ledger says that data set {str(name)[:12]} holds was altered")
    for name in charged:
        if name not in held:
            raise ValueError(f"the privacy ledger has lost what data set {name[:12]} holds")
    return held
