"""What a data set holds, as digests: its name in the ledger, what it shares with others, and the ledger's table of it.

A data set is named by its contents, and every charge holds the name. So the chain of charges covers the contents too: a
digest that is taken out, added or exchanged gives another name. The table has one row for a data set, with all digests
in a row: 16 bytes a record on disk, checked by one hash.
"""

import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from .charges import append_only

# Half of a SHA-256. Two different records with one digest would tie data sets together that share nobody: more is
# counted then, never less, and to make such a pair takes 2^64 trials of whoever owns the data.
_BYTES = 16
_TABLE = "CREATE TABLE IF NOT EXISTS contents (data_set TEXT PRIMARY KEY NOT NULL, digests BLOB NOT NULL) STRICT"
SCHEMA = (_TABLE, *append_only("contents"))


@dataclass(frozen=True)
class Holdings:
    """What a data set holds, made by `of`.

    Two data sets are kin when they share a digest. A data set is kin to itself; that its kin have kin of their own says
    nothing about it.

    Attributes:
        packed: the digests of its records and of its units' ids, 16 bytes each, distinct and ascending. They are not
            salted: whoever has them can test a guess, so they stay in the node's home and out of every message.
    """

    packed: bytes = field(repr=False)

    @classmethod
    def of(cls, digests: Iterable[bytes]) -> "Holdings":
        """From digests of at least 16 bytes, in any order, repeated or not.

        Raises:
            ValueError: there is none, or one is shorter. Without any a data set would be nobody's kin.
        """
        short = sorted({digest[:_BYTES] for digest in digests})
        if not short or any(len(digest) < _BYTES for digest in short):
            raise ValueError("a data set holds at least one record, by a digest of at least 16 bytes")
        return cls(b"".join(short))

    @cached_property
    def name(self) -> str:
        """SHA-256 over all digests, hex: the data set's name in the ledger."""
        return hashlib.sha256(b"cotune data set 2" + self.packed).hexdigest()

    @cached_property
    def digests(self) -> frozenset[bytes]:
        """Each by itself."""
        return frozenset(self._each())

    def is_kin(self, other: "Holdings") -> bool:
        """Whether the two share a record or a unit's id."""
        # Versions of one data set are told by their first digests, without a set of all of them for each version.
        return not self.digests.isdisjoint(other._each())

    def shared(self, other: "Holdings") -> int:
        """How many records and ids the two share."""
        return len(self.digests & other.digests)

    def _each(self) -> Iterator[bytes]:
        return (self.packed[place : place + _BYTES] for place in range(0, len(self.packed), _BYTES))


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
