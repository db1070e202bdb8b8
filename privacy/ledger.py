"""The privacy ledger: what an organization's data has already been charged with, on disk before the first gradient.

A charge is reserved when training starts and is never refunded: an aborted round may have shown its noised sum to
somebody. The file is an SQLite database of two append-only tables: the charges, and what each charged data set holds.
Every charge holds the digest of the charge before it and the digest of its data set's contents, so that whatever is
changed or removed is found; a head file beside it (`anchor`) finds a database that was put back.

Accounts are kept for each data set and unit, with the charges of all data sets that share records or unit ids with it
(`accounts`). Two units of one data set are two accounts.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from .. import private_files
from ..atomic import sync_folder
from ..errors import UserError
from . import charges, holdings
from .accounts import Account, Books
from .anchor import Head, read_head, write_head
from .charges import Charge, Due, EventName, Terms, chained, check_head, head_of, insert, read_chain, terms_of
from .holdings import Holdings, insert_contents, read_contents
from .skellam import Grid

_BUSY_SECONDS = 120.0
_RESTORE = "put back the newest ledger with its head, from a backup no older than its last round; do not start anew"
# In the database's header: version 2 knew what each data set holds, version 3 knows a record whatever its answer is.
_VERSION = 3
_TABLES = {"charges", "contents"}


class LedgerBroken(UserError):  # noqa: N818
    """The ledger's file was altered, put back to an older state, or lost."""

    code = "ledger.broken"


class Ledger:
    """The ledger in one file. Any number of processes may use it at once.

    Guarantees:
        A rollback of the database alone, to any earlier state and also to none, is found by the next call. A crash at
        any moment leaves a ledger that works and holds every charge whose `reserve` returned.

    Raises:
        UserError: the file is a link or open to others, is not a ledger, or is one of another format.
        LedgerBroken: it was put back to an older state.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _create_private(path)
        with self._writing() as database:
            self._require_format(database)
            for statement in (*charges.SCHEMA, *holdings.SCHEMA):
                database.execute(statement)
            self._require_anchor(database)

    def reserve(
        self,
        dues: Sequence[Due],
        *,
        data: Holdings,
        charter: str,
        run: str,
        round: int,
        attempt: int,
        sample_rate: float,
        steps: int,
        delta: float,
        grid: Grid | None = None,
    ) -> tuple[Charge, ...]:
        """Charge `steps` noised steps to a data set, durably, before any of them is taken.

        Args:
            dues: one for each account of the data set that the event concerns, by different units.
            data: of the event, as are the next four.
            charter: its digest.
            run: its id.
            round: counted from 0.
            attempt: counted from 0.
            grid: of Skellam noise.

        The composed epsilon of each account (`accounts`), with its charge, is compared at the smallest delta of all of
        its charges with the smallest budget of all of them.

        Guarantees:
            All dues are charged or none. After the return they survive a crash, and with the first of a data set what
            it holds. A second call with the same data, charter, run, round and attempt returns the first charges:
            whoever calls releases at most one noised result for them.

        Raises:
            OverBudget: a budget does not allow it; nothing is charged.
            LedgerBroken: the file was altered.
            UserError: this round and attempt is already charged on other terms; or a disk is full: then the charges may
                stand, and the same call again returns them.
            ValueError: a number that no mechanism has; no due, or two for one account.
        """
        if steps < 1 or not all(due.noise_multiplier > 0 for due in dues):
            raise ValueError(f"cannot reserve {steps} steps with noise {[due.noise_multiplier for due in dues]}")
        terms = {due.unit: terms_of(due, sample_rate, steps, delta, grid) for due in dues}
        if not dues or len(terms) < len(dues):
            raise ValueError("cannot reserve nothing, or twice for one account")
        event = (data.name, charter, run, round, attempt)
        with self._writing() as database:
            books = self._verified(database, self._head())
            made = tuple(row for row in books.charges if row.event == event)
            if not made:
                made = _next(books, data, event, terms)
                if data.name not in books.contents:
                    insert_contents(database, data)
                for charge in made:
                    insert(database, charge)
            elif {row.unit: row.terms for row in made} != terms:
                raise UserError(
                    f"round {round + 1} attempt {attempt + 1} of run {run} is already charged on other terms",
                    "start a new attempt",
                )
        self._note_head(made[-1])
        return made

    def require_charged(self, run: str, rounds: Iterable[int]) -> None:
        """A cross-check by whoever remembers taking part in rounds: each of them is charged to some data set.

        Raises:
            LedgerBroken: one is not: ledger and head file were both put back, or lost.
        """
        missing = set(rounds) - {row.round for row in self.charges() if row.run == run}
        if missing:
            first = f"round {min(missing) + 1} of run {run}"
            raise LedgerBroken(f"{self.path}: no charge for {first}, in which this node took part", _RESTORE)

    def spent(self, data: Holdings, unit: str, delta: float) -> float:
        """The composed epsilon at `delta` of the account of a data set and unit; 0 where nothing was charged to it."""
        return self._books().spent(data, unit, delta)

    def strangers(self, data: Holdings) -> int:
        """How many data sets were charged, where this one was not and shares nothing with any of them; else 0."""
        return self._books().strangers(data)

    def charges(self) -> list[Charge]:
        """All charges, oldest first, after checking the chain, its head and the contents of data sets."""
        return self._books().charges

    def verify(self) -> str:
        """Check rows and contents against the chain, the chain against the head file; return its head, hex SHA-256.

        Raises:
            LedgerBroken: a row of a table was changed, removed or added by another hand.
        """
        return head_of(self.charges()).digest

    def statement(self) -> list[Account]:
        """One line for each data set and unit, in the order of their first charges."""
        return self._books().statement()

    def _books(self) -> Books:
        # The head first: a charge that another process adds in between is then only ahead of it.
        head = self._head()
        with self._reading() as database:
            return self._verified(database, head)

    def _head(self) -> Head | None:
        try:
            return read_head(self.path)
        except ValueError as error:
            raise LedgerBroken(str(error), _RESTORE) from error

    def _verified(self, database: sqlite3.Connection, head: Head | None) -> Books:
        if head is None:
            raise LedgerBroken(f"{self.path}: the privacy ledger has lost its head file", _RESTORE)
        try:
            rows = read_chain(database)
            check_head(rows, head)
            return Books(rows, read_contents(database, {row.data_set for row in rows}))
        except (ValueError, TypeError) as error:
            raise LedgerBroken(f"{self.path}: {error}", _RESTORE) from error

    def _require_format(self, database: sqlite3.Connection) -> None:
        """Refuse what is not a ledger, or not of this format, before anything is written to it."""
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if tables - _TABLES:
            raise UserError(f"{self.path}: a database, but not a privacy ledger", "name the ledger of a node's folder")
        if tables and version != _VERSION:
            raise UserError(
                f"{self.path}: a privacy ledger of format {version}, this cotune reads format {_VERSION}",
                "read it with the cotune that wrote it; what it says was spent adds to what a new home spends",
            )

    def _require_anchor(self, database: sqlite3.Connection) -> None:
        """The head file of a ledger without charges; none is made for a ledger that lost it."""
        if self._head() is None and not database.execute("SELECT 1 FROM charges").fetchone():
            write_head(self.path, head_of([]))
        if database.execute("PRAGMA user_version").fetchone() != (_VERSION,):  # written again, it costs a whole commit
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
    _require_private(path)
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
        _require_private(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "create its folder and make it writable") from error


def _require_private(path: Path) -> None:
    """SQLite follows links and takes what it finds as its own journal, so both are checked before it looks."""
    private_files.require_file(path)
    private_files.require_file(path.with_name(path.name + "-journal"))


def _next(books: Books, data: Holdings, event: EventName, terms: Mapping[str, Terms]) -> tuple[Charge, ...]:
    """The charges for one event, one for each unit, as the chain goes on."""
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    head, made = head_of(books.charges), []
    for (unit, own), spent in zip(terms.items(), books.admit(data, terms), strict=True):
        body = (head.sequence + 1, data.name, unit, *event[1:], *own, spent, moment, head.digest)
        made.append(chained(body))
        head = head_of([*books.charges, *made])
    return tuple(made)
