"""The privacy ledger: what an organization's data has already been charged with, on disk before the first gradient.

A charge is reserved when training starts and is never refunded: an aborted round may have shown its noised sum to
somebody. The file is an SQLite database of one append-only table. Every row holds the digest of the row before it, so
that a changed or removed row is found; cutting rows off the end is found only by whoever kept a later `head`.

Accounts are kept for each data set (its fingerprint) and unit. Two data sets that share people are two accounts here.
"""

import hashlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from ..errors import UserError
from .accounting import epsilon

_GENESIS = hashlib.sha256(b"cotune/ledger/v1").hexdigest()
_BUSY_SECONDS = 120.0
_RESTORE = "restore the ledger from a backup, do not start a new one"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS charges (
    sequence INTEGER PRIMARY KEY, data_set TEXT NOT NULL, unit TEXT NOT NULL, charter TEXT NOT NULL,
    run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, noise_multiplier REAL NOT NULL,
    sample_rate REAL NOT NULL, steps INTEGER NOT NULL, delta REAL NOT NULL, budget_epsilon REAL NOT NULL,
    spent_epsilon REAL NOT NULL, reserved_at TEXT NOT NULL, previous TEXT NOT NULL, digest TEXT NOT NULL,
    UNIQUE (data_set, unit, charter, run, round, attempt)) STRICT;
CREATE TRIGGER IF NOT EXISTS never_updated BEFORE UPDATE ON charges
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS never_deleted BEFORE DELETE ON charges
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


class OverBudget(UserError):  # noqa: N818 - a verdict, not a fault
    """A reservation would exceed the budget of this data set and unit; nothing was charged."""


class LedgerBroken(UserError):  # noqa: N818
    """The ledger's file was altered."""


@dataclass(frozen=True)
class Charge:
    """One reservation, as stored.

    `budget_epsilon` is what its charter allowed; `spent_epsilon` is the epsilon of the whole account, this charge
    included, at the smallest delta that the account has seen; `reserved_at` is UTC; digests are hex SHA-256.
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
    spent_epsilon: float
    reserved_at: str
    previous: str
    digest: str


@dataclass(frozen=True)
class Account:
    """One line of the statement: a data set and unit, its budget, and what is spent and left of it at `delta`."""

    data_set: str
    unit: str
    delta: float
    budget_epsilon: float
    spent_epsilon: float
    left_epsilon: float
    steps: int
    charges: int


class Ledger:
    """The ledger in one file. Any number of processes may use it at once.

    Raises:
        UserError: the file may be read by others, or is not a ledger.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _create_private(path)
        with self._transaction() as database:
            for statement in _SCHEMA.split(";\nCREATE"):
                prefix = "" if statement.lstrip().startswith("CREATE") else "CREATE"
                database.execute(prefix + statement)

    def reserve(
        self,
        *,
        data_set: str,
        unit: str,
        charter: str,
        run: str,
        round: int,
        attempt: int,
        sigma: float,
        sample_rate: float,
        steps: int,
        delta: float,
        budget_epsilon: float,
    ) -> Charge:
        """Charge `steps` noised steps to a data set, durably, before any of them is taken.

        The composed epsilon of all charges to this data set and unit, with this one, is compared at the smallest delta
        of all of them with the smallest budget of all of them.

        Guarantees:
            After the return the charge survives a crash. A second call with the same charter, run, round and attempt
            returns the first charge: whoever calls releases at most one noised result for it.

        Raises:
            OverBudget: the budget does not allow it; nothing is charged.
            LedgerBroken: the file was altered.
            UserError: this round and attempt is already charged on other terms.
            ValueError: a number that no mechanism has.
        """
        if steps < 1 or not sigma > 0:
            raise ValueError(f"cannot reserve {steps} steps with noise {sigma}")
        terms = (float(sigma), float(sample_rate), int(steps), float(delta), float(budget_epsilon))
        with self._transaction() as database:
            rows = _verified(database)
            account = [row for row in rows if (row.data_set, row.unit) == (data_set, unit)]
            for row in account:
                if (row.charter, row.run, row.round, row.attempt) == (charter, run, round, attempt):
                    return _same_terms(row, terms)
            spent = _within_budget(account, terms)
            previous = rows[-1].digest if rows else _GENESIS
            moment = datetime.now(UTC).isoformat(timespec="seconds")
            body = (len(rows) + 1, data_set, unit, charter, run, round, attempt, *terms, spent, moment, previous)
            charge = Charge(*body, digest=_digest(body))
            marks = ", ".join("?" * len(fields(Charge)))
            database.execute(f"INSERT INTO charges VALUES ({marks})", astuple(charge))  # noqa: S608
        return charge

    def spent(self, data_set: str, unit: str, delta: float) -> float:
        """The composed epsilon at `delta` of everything charged to a data set and unit; 0 where nothing was."""
        return epsilon([_segment(row) for row in self.charges() if (row.data_set, row.unit) == (data_set, unit)], delta)

    def charges(self) -> list[Charge]:
        """All charges, oldest first, after checking the chain."""
        with self._transaction() as database:
            return _verified(database)

    def verify(self) -> str:
        """Check every row against the chain and return its head, hex SHA-256.

        Raises:
            LedgerBroken: a row was changed, removed or added by another hand.
        """
        rows = self.charges()
        return rows[-1].digest if rows else _GENESIS

    def statement(self) -> list[Account]:
        """One line for each data set and unit, in the order of their first charges."""
        accounts: dict[tuple[str, str], list[Charge]] = {}
        for row in self.charges():
            accounts.setdefault((row.data_set, row.unit), []).append(row)
        return [_account(rows) for rows in accounts.values()]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            # EXTRA is FULL that also syncs the folder when the rollback journal goes: a commit survives a power cut.
            database.execute("PRAGMA synchronous = EXTRA")
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self.path}: {error}", "end what holds the file, check free disk and write access"
            ) from error
        except sqlite3.DatabaseError as error:
            raise LedgerBroken(f"{self.path}: {error}", _RESTORE) from error
        finally:
            # Closing without a commit rolls back.
            database.close()


def _create_private(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UserError(f"{path}: others may read the privacy ledger", f"run chmod 600 {path}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "create its folder and make it writable") from error


def _verified(database: sqlite3.Connection) -> list[Charge]:
    rows = [Charge(*values) for values in database.execute("SELECT * FROM charges ORDER BY sequence")]
    previous = _GENESIS
    for number, row in enumerate(rows, start=1):
        if row.sequence != number or row.previous != previous or row.digest != _digest(astuple(row)[:-1]):
            raise LedgerBroken(f"the privacy ledger was altered at row {number}", _RESTORE)
        previous = row.digest
    return rows


def _digest(body: tuple[object, ...]) -> str:
    return hashlib.sha256(b"cotune/ledger/v1/row" + json.dumps(body, allow_nan=False).encode()).hexdigest()


def _same_terms(row: Charge, terms: tuple[float, float, int, float, float]) -> Charge:
    if (row.noise_multiplier, row.sample_rate, row.steps, row.delta, row.budget_epsilon) != terms:
        raise UserError(
            f"round {row.round} attempt {row.attempt} of run {row.run} is already charged on other terms",
            "start a new attempt",
        )
    return row


def _within_budget(account: list[Charge], terms: tuple[float, float, int, float, float]) -> float:
    """The composed epsilon with the new terms, or `OverBudget`."""
    sigma, rate, steps, delta, budget = terms
    history = [_segment(row) for row in account]
    delta = min([delta, *(row.delta for row in account)])
    budget = min([budget, *(row.budget_epsilon for row in account)])
    total = epsilon([*history, (sigma, rate, steps)], delta)
    if total <= budget:
        return total
    spent = epsilon(history, delta)
    raise OverBudget(
        f"privacy budget: epsilon {spent:.3f} spent, {total:.3f} with these {steps} steps, "
        f"{max(budget - spent, 0.0):.3f} left of {budget:g} at delta {delta:g}",
        "stop here, or agree on a charter with a larger epsilon or on new data",
    )


def _segment(row: Charge) -> tuple[float, float, int]:
    return row.noise_multiplier, row.sample_rate, row.steps


def _account(rows: list[Charge]) -> Account:
    delta, budget = min(row.delta for row in rows), min(row.budget_epsilon for row in rows)
    spent = epsilon([_segment(row) for row in rows], delta)
    return Account(
        data_set=rows[0].data_set,
        unit=rows[0].unit,
        delta=delta,
        budget_epsilon=budget,
        spent_epsilon=spent,
        left_epsilon=max(budget - spent, 0.0),
        steps=sum(row.steps for row in rows),
        charges=len(rows),
    )
