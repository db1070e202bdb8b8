"""The rows of the ledger: what a charge is, how it is stored, and how each holds the digest of the one before it."""

import hashlib
import json
import sqlite3
from dataclasses import astuple, dataclass, fields
from typing import NamedTuple

from .anchor import Head
from .history import Segment, segment
from .skellam import Grid

GENESIS = hashlib.sha256(b"cotune/ledger/v2").hexdigest()
_TABLE = """
CREATE TABLE IF NOT EXISTS charges (
    sequence INTEGER PRIMARY KEY, data_set TEXT NOT NULL, unit TEXT NOT NULL, charter TEXT NOT NULL,
    run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, noise_multiplier REAL NOT NULL,
    sample_rate REAL NOT NULL, steps INTEGER NOT NULL, delta REAL NOT NULL, budget_epsilon REAL NOT NULL,
    grid_step REAL NOT NULL, dimension INTEGER NOT NULL, sensitivity REAL NOT NULL,
    spent_epsilon REAL NOT NULL, reserved_at TEXT NOT NULL, previous TEXT NOT NULL, digest TEXT NOT NULL,
    UNIQUE (data_set, unit, charter, run, round, attempt)) STRICT
"""
_APPEND_ONLY = """
CREATE TRIGGER IF NOT EXISTS {table}_never_{verb}d BEFORE {verb} ON {table}
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END
"""
# Data set, charter, run, round, attempt: what is charged, to however many accounts.
EventName = tuple[str, str, str, int, int]


def append_only(table: str) -> tuple[str, str]:
    """The statements that make a table of the ledger refuse changes."""
    return _APPEND_ONLY.format(table=table, verb="UPDATE"), _APPEND_ONLY.format(table=table, verb="DELETE")


SCHEMA = (_TABLE, *append_only("charges"))


class Terms(NamedTuple):
    """The columns of a charge that accounting and budgets depend on, in the order of the table."""

    noise_multiplier: float
    sample_rate: float
    steps: int
    delta: float
    budget_epsilon: float
    grid_step: float
    dimension: int
    sensitivity: float

    @property
    def grid(self) -> Grid | None:
        """Of Skellam noise; None with Gaussian noise."""
        return Grid(self.grid_step, self.dimension, self.sensitivity) if self.grid_step else None

    @property
    def segment(self) -> Segment:
        """The steps, as accounting takes them."""
        return segment(self.noise_multiplier, self.sample_rate, self.steps, self.grid)


class Due(NamedTuple):
    """What one event costs one account: its unit, the noise that its adversary sees, and the budget that holds."""

    unit: str
    noise_multiplier: float
    budget_epsilon: float


def terms_of(due: Due, sample_rate: float, steps: int, delta: float, grid: Grid | None) -> Terms:
    """The columns for these numbers, in the types that the table stores."""
    place = (0.0, 0, 0.0) if grid is None else (float(grid.step), int(grid.dimension), float(grid.sensitivity))
    noise, budget = float(due.noise_multiplier), float(due.budget_epsilon)
    return Terms(noise, float(sample_rate), int(steps), float(delta), budget, *place)


@dataclass(frozen=True)
class Charge:
    """One reservation, as stored.

    `data_set` is the name of what was charged: a digest of all that it holds (`holdings`).
    `grid_step`, `dimension` and `sensitivity` are those of the grid of Skellam noise, and 0 with Gaussian noise.
    `budget_epsilon` is what its charter allowed; `spent_epsilon` is the epsilon of the whole account, this charge
    included, at the smallest delta that the account has seen; `reserved_at` is UTC by this machine's clock, for people:
    the order of charges is their sequence. Digests are hex SHA-256.
    """

    sequence: int
    data_set: str
    unit: str
    charter: str
    run: str
    round: int
    attempt: int
    noise_multiplier: float
    sample_rate: float
    steps: int
    delta: float
    budget_epsilon: float
    grid_step: float
    dimension: int
    sensitivity: float
    spent_epsilon: float
    reserved_at: str
    previous: str
    digest: str

    @property
    def account(self) -> tuple[str, str]:
        """Data set and unit: what budgets are kept for."""
        return self.data_set, self.unit

    @property
    def event(self) -> EventName:
        """What was charged, whatever the account."""
        return self.data_set, self.charter, self.run, self.round, self.attempt

    @property
    def segment(self) -> Segment:
        """The steps, as accounting takes them."""
        return self.terms.segment

    @property
    def terms(self) -> Terms:
        """What a repeated reservation must repeat."""
        return Terms(*(getattr(self, name) for name in Terms._fields))


def chained(body: tuple[object, ...]) -> Charge:
    """A charge from all its fields but the digest."""
    return Charge(*body, _digest(body))  # type: ignore[arg-type, call-arg]


def insert(database: sqlite3.Connection, charge: Charge) -> None:
    """Append a row; the caller has opened a transaction."""
    marks = ", ".join("?" * len(fields(Charge)))
    database.execute(f"INSERT INTO charges VALUES ({marks})", astuple(charge))  # noqa: S608


def read_chain(database: sqlite3.Connection) -> list[Charge]:
    """All rows, oldest first.

    Raises:
        ValueError: a row was changed, removed, added or renumbered by another hand; it says which.
    """
    rows: list[Charge] = []
    previous = GENESIS
    for number, values in enumerate(database.execute("SELECT * FROM charges ORDER BY sequence"), start=1):
        row = Charge(*values)
        if row.sequence != number or row.previous != previous or row.digest != _digest(values[:-1]):
            raise ValueError(f"the privacy ledger was altered at row {number}")
        previous = row.digest
        rows.append(row)
    return rows


def head_of(rows: list[Charge]) -> Head:
    """The end of a chain."""
    return Head(len(rows), rows[-1].digest if rows else GENESIS)


def check_head(rows: list[Charge], head: Head) -> None:
    """The chain goes through `head`, and perhaps on.

    Raises:
        ValueError: it does not.
    """
    if head.sequence > len(rows):
        missing = head.sequence - len(rows)
        raise ValueError(f"the privacy ledger was rolled back: {missing} of its {head.sequence} charges are missing")
    if head_of(rows[: head.sequence]) != head:
        raise ValueError(f"the privacy ledger is another one: charge {head.sequence} is not the one noted in its head")


def _digest(body: tuple[object, ...]) -> str:
    return hashlib.sha256(b"cotune/ledger/v2/row" + json.dumps(body, allow_nan=False).encode()).hexdigest()
