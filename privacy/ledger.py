"""The privacy ledger: what an organization's data has already been charged with, on disk before the first gradient.

A charge is reserved when training starts and is never refunded: an aborted round may have shown its noised sum to
somebody. The file is an SQLite database of one append-only table. Every row holds the digest of the row before it, so
that a changed or removed row is found; a head file beside it (`anchor`) finds a database that was put back.

Accounts are kept for each data set (its fingerprint) and unit. Two data sets that share people are two accounts here,
and so are two units of one data set.
"""

import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..atomic import sync_folder
from ..errors import UserError
from .accounting import accounted, epsilon, rounded
from .anchor import Head, read_head, write_head
from .charges import SCHEMA, Charge, Terms, chained, check_head, head_of, insert, read_chain, terms_of
from .skellam import Grid

_BUSY_SECONDS = 120.0
_RESTORE = "put back the newest ledger with its head, from a backup no older than its last round; do not start anew"
# In the database's header: from version 1 on a head file stands beside it.
_VERSION = 1


class OverBudget(UserError):  # noqa: N818 - a verdict, not a fault
    """A reservation would exceed the budget of this data set and unit; nothing was charged."""

    code = "ledger.budget"


class LedgerBroken(UserError):  # noqa: N818
    """The ledger's file was altered, put back to an older state, or lost."""

    code = "ledger.broken"


@dataclass(frozen=True)
class Account:
    """One line of the statement: a data set and unit, its budget, and what is spent and left of it at `delta`.

    `method` says where `spent_epsilon` comes from, as in `accounting.Accounted`; `rdp_epsilon` is the Rényi bound.
    """

    data_set: str
    unit: str
    delta: float
    budget_epsilon: float
    spent_epsilon: float
    left_epsilon: float
    method: str
    rdp_epsilon: float
    steps: int
    charges: int


class Ledger:
    """The ledger in one file. Any number of processes may use it at once.

    Guarantees:
        A rollback of the database alone, to any earlier state and also to none, is found by the next call. A crash at
        any moment leaves a ledger that works and holds every charge whose `reserve` returned.

    Raises:
        UserError: the file may be read by others, or is not a ledger.
        LedgerBroken: it was put back to an older state.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _create_private(path)
        with self._writing() as database:
            if database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name <> 'charges'").fetchone():
                raise UserError(f"{path}: a database, but not a privacy ledger", "name the ledger of a node's folder")
            for statement in SCHEMA:
                database.execute(statement)
            self._require_anchor(database)

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
        grid: Grid | None = None,
    ) -> Charge:
        """Charge `steps` noised steps to a data set, durably, before any of them is taken.

        The composed epsilon of all charges to this data set and unit, with this one, is compared at the smallest delta
        of all of them with the smallest budget of all of them. With a grid the steps have Skellam noise.

        Guarantees:
            After the return the charge survives a crash. A second call with the same charter, run, round and attempt
            returns the first charge: whoever calls releases at most one noised result for it.

        Raises:
            OverBudget: the budget does not allow it; nothing is charged.
            LedgerBroken: the file was altered.
            UserError: this round and attempt is already charged on other terms; or a disk is full: then the charge may
                stand, and the same call again returns it.
            ValueError: a number that no mechanism has.
        """
        if steps < 1 or not sigma > 0:
            raise ValueError(f"cannot reserve {steps} steps with noise {sigma}")
        name = (data_set, unit, charter, run, round, attempt)
        terms = terms_of(sigma, sample_rate, steps, delta, budget_epsilon, grid)
        with self._writing() as database:
            rows = self._verified(database, self._head())
            charge = next((row for row in rows if _name(row) == name), None)
            if charge is None:
                spent = _within_budget([row for row in rows if row.account == (data_set, unit)], terms)
                moment = datetime.now(UTC).isoformat(timespec="seconds")
                charge = chained((len(rows) + 1, *name, *terms, spent, moment, head_of(rows).digest))
                insert(database, charge)
            elif charge.terms != terms:
                raise UserError(
                    f"round {round} attempt {attempt} of run {run} is already charged on other terms",
                    "start a new attempt",
                )
        self._note_head(charge)
        return charge

    def require_charged(self, run: str, rounds: Iterable[int]) -> None:
        """A cross-check by whoever remembers taking part in rounds: each of them is charged to some data set.

        Raises:
            LedgerBroken: one is not: ledger and head file were both put back, or lost.
        """
        missing = set(rounds) - {row.round for row in self.charges() if row.run == run}
        if missing:
            raise LedgerBroken(
                f"{self.path}: no charge for round {min(missing)} of run {run}, in which this node took part", _RESTORE
            )

    def spent(self, data_set: str, unit: str, delta: float) -> float:
        """The composed epsilon at `delta` of everything charged to a data set and unit; 0 where nothing was."""
        return epsilon([row.segment for row in self.charges() if row.account == (data_set, unit)], delta)

    def charges(self) -> list[Charge]:
        """All charges, oldest first, after checking the chain and its head."""
        # The head first: a charge that another process adds in between is then only ahead of it.
        head = self._head()
        with self._reading() as database:
            return self._verified(database, head)

    def verify(self) -> str:
        """Check every row against the chain, the chain against the head file, and return its head, hex SHA-256.

        Raises:
            LedgerBroken: a row was changed, removed or added by another hand.
        """
        return head_of(self.charges()).digest

    def statement(self) -> list[Account]:
        """One line for each data set and unit, in the order of their first charges."""
        accounts: dict[tuple[str, str], list[Charge]] = {}
        for row in self.charges():
            accounts.setdefault(row.account, []).append(row)
        return [_account(rows) for rows in accounts.values()]

    def _head(self) -> Head | None:
        try:
            return read_head(self.path)
        except ValueError as error:
            raise LedgerBroken(str(error), _RESTORE) from error

    def _chain(self, database: sqlite3.Connection) -> list[Charge]:
        try:
            return read_chain(database)
        except (ValueError, TypeError) as error:
            raise LedgerBroken(f"{self.path}: {error}", _RESTORE) from error

    def _verified(self, database: sqlite3.Connection, head: Head | None) -> list[Charge]:
        rows = self._chain(database)
        if head is None:
            raise LedgerBroken(f"{self.path}: the privacy ledger has lost its head file", _RESTORE)
        try:
            check_head(rows, head)
        except ValueError as error:
            raise LedgerBroken(f"{self.path}: {error}", _RESTORE) from error
        return rows

    def _require_anchor(self, database: sqlite3.Connection) -> None:
        """The head file of a new ledger, or of one from before there were any; none is made for a ledger that lost it.

        It is written before the version that demands it, and at the end of what is committed: never ahead.
        """
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (count,) = database.execute("SELECT count(*) FROM charges").fetchone()
        if self._head() is None and (version < _VERSION or count == 0):
            write_head(self.path, head_of(self._chain(database)))
        if version < _VERSION:
            database.execute(f"PRAGMA user_version = {_VERSION}")

    def _note_head(self, charge: Charge) -> None:
        """Bring the head file to the end of the ledger, under the write lock, so that it never moves back.

        A charge counts only once its number is in the head file: before that nobody has acted on it.
        """
        with self._writing() as database:
            held = database.execute("SELECT digest FROM charges WHERE sequence = ?", (charge.sequence,)).fetchone()
            if held != (charge.digest,):
                raise LedgerBroken(f"{self.path}: charge {charge.sequence} is gone", _RESTORE)
            last = database.execute("SELECT sequence, digest FROM charges ORDER BY sequence DESC LIMIT 1").fetchone()
            if self._head() != Head(*last):
                write_head(self.path, Head(*last))

    def _writing(self) -> AbstractContextManager[sqlite3.Connection]:
        return _transaction(self.path, "BEGIN IMMEDIATE")

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return _transaction(self.path, "BEGIN")


@contextmanager
def _transaction(path: Path, begin: str) -> Iterator[sqlite3.Connection]:
    """A connection inside a transaction, committed at the end of the block and rolled back where it raises.

    synchronous = EXTRA is FULL, which syncs every page before a commit returns, and more: the folder is synced when
    the rollback journal goes, without which a power cut could bring the journal back and undo the commit. A rollback
    journal rather than a write-ahead log: what is committed is then in the one file that people copy and back up.
    """
    database = None
    try:
        # mode=rw: a ledger that has just been deleted must not begin again as an empty one.
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", _BUSY_SECONDS, isolation_level=None, uri=True)
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("PRAGMA synchronous = EXTRA")
        database.execute("PRAGMA fullfsync = ON")
        database.execute(begin)
        yield database
        database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise UserError(f"{path}: {error}", "end what holds the file, check free disk and write access") from error
    except sqlite3.DatabaseError as error:
        raise LedgerBroken(f"{path}: {error}", _RESTORE) from error
    finally:
        if database is not None:
            # Closing without a commit rolls back.
            database.close()


def _create_private(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        sync_folder(path.parent)
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UserError(f"{path}: others may read the privacy ledger", f"run chmod 600 {path}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "create its folder and make it writable") from error


def _name(row: Charge) -> tuple[str, str, str, str, int, int]:
    return row.data_set, row.unit, row.charter, row.run, row.round, row.attempt


def _within_budget(account: list[Charge], terms: Terms) -> float:
    """The composed epsilon with the new steps, or `OverBudget`."""
    history = [row.segment for row in account]
    delta = min([terms.delta, *(row.delta for row in account)])
    budget = min([terms.budget_epsilon, *(row.budget_epsilon for row in account)])
    total = epsilon([*history, terms.segment], delta)
    if total <= budget:
        return total
    spent = epsilon(history, delta)
    how = f" by {len(account)} charges of {len({row.run for row in account})} runs" if account else ""
    raise OverBudget(
        f"privacy budget: epsilon {rounded(spent)} spent{how}, {rounded(total)} with these {terms.steps} steps, "
        f"{rounded(max(budget - spent, 0.0), up=False)} left of {budget:g} at delta {delta:g}",
        "see each charge with cotune privacy show, then agree on a larger epsilon or on new data, or stop here",
    )


def _account(rows: list[Charge]) -> Account:
    delta, budget = min(row.delta for row in rows), min(row.budget_epsilon for row in rows)
    spent = accounted([row.segment for row in rows], delta)
    return Account(
        data_set=rows[0].data_set,
        unit=rows[0].unit,
        delta=delta,
        budget_epsilon=budget,
        spent_epsilon=spent.epsilon,
        left_epsilon=max(budget - spent.epsilon, 0.0),
        method=spent.method,
        rdp_epsilon=spent.rdp,
        steps=sum(row.steps for row in rows),
        charges=len(rows),
    )
