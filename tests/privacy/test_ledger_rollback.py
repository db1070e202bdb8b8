"""A ledger that was put back, exchanged or lost is found and stops the node; a crash never looks like one."""

import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cotune.errors import UserError
from cotune.privacy import accounts, charges, holdings
from cotune.privacy.accounting import Accounted
from cotune.privacy.anchor import Head, anchor_of, read_head, write_head
from cotune.privacy.charges import GENESIS, Due
from cotune.privacy.holdings import Holdings
from cotune.privacy.ledger import Ledger, LedgerBroken

TERMS: dict[str, Any] = {
    "data": Holdings.of([b"d" * 16]),
    "charter": "c" * 64,
    "run": "r1",
    "attempt": 0,
    "sample_rate": 0.25,
    "steps": 1,
    "delta": 1e-5,
}
DUES = [Due("patient", 1.0, 1e6)]


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """With four charges, and copies of database and head as they were after two: `old` and `old.head`."""

    def linear(history: Any, delta: float) -> float:
        return float(sum(steps for *_, steps in history))

    monkeypatch.setattr(accounts, "epsilon", linear)
    monkeypatch.setattr(accounts, "accounted", lambda *given: Accounted(linear(*given), "prv", linear(*given)))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for number in range(4):
        if number == 2:
            shutil.copy(ledger.path, tmp_path / "old")
            shutil.copy(anchor_of(ledger.path), tmp_path / "old.head")
        ledger.reserve(DUES, round=number, **TERMS)
    return ledger


def stops(path: Path, match: str) -> None:
    """Neither reading nor reserving nor a fresh start goes on, and nothing is charged."""
    for use in (
        lambda: Ledger(path).charges(),
        lambda: Ledger(path).reserve(DUES, round=9, **TERMS),
        lambda: Ledger(path).reserve(DUES, round=0, **TERMS),
        lambda: Ledger(path).statement(),
        lambda: Ledger(path).verify(),
    ):
        with pytest.raises(LedgerBroken, match=match) as caught:
            use()
        assert "do not start anew" in caught.value.mend
        assert "\n" not in str(caught.value)


def test_the_head_file_is_private_and_at_the_end(ledger: Ledger) -> None:
    head = anchor_of(ledger.path)
    assert stat.S_IMODE(head.stat().st_mode) == 0o600
    assert read_head(ledger.path) == Head(4, ledger.verify())


def test_an_older_database_is_found(ledger: Ledger) -> None:
    shutil.copy(ledger.path.parent / "old", ledger.path)
    stops(ledger.path, "rolled back: 2 of its 4 charges are missing")


def test_a_database_that_was_lost_is_not_begun_again(ledger: Ledger) -> None:
    ledger.path.unlink()
    with pytest.raises(UserError, match="unable to open"):
        ledger.reserve(DUES, round=9, **TERMS)
    stops(ledger.path, "4 of its 4 charges are missing")
    ledger.path.unlink()
    ledger.path.touch(0o600)
    stops(ledger.path, "4 of its 4 charges are missing")


def test_an_older_database_that_grew_again_is_found(ledger: Ledger) -> None:
    folder = ledger.path.parent
    other = folder / "other"
    other.mkdir()
    shutil.copy(folder / "old", other / "ledger.sqlite")
    shutil.copy(folder / "old.head", anchor_of(other / "ledger.sqlite"))
    branch = Ledger(other / "ledger.sqlite")
    for number in range(7, 12):
        branch.reserve(DUES, round=number, **TERMS)
    shutil.copy(branch.path, ledger.path)
    stops(ledger.path, "charge 4 is not the one noted")


def test_a_ledger_without_its_head_file_stops(ledger: Ledger) -> None:
    anchor_of(ledger.path).unlink()
    stops(ledger.path, "lost its head file")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 900,
        b'{"sequence": 4}',
        b'{"sequence": "4", "digest": "%s"}' % (b"a" * 64),
        b'{"sequence": true, "digest": "%s"}' % (b"a" * 64),
        b'{"sequence": -1, "digest": "%s"}' % (b"a" * 64),
        b'{"sequence": 4, "digest": "zz"}',
        b'{"sequence": 4, "digest": 4}',
        b'{"sequence": 0, "digest": "%s"}' % (b"a" * 64),
    ],
)
def test_a_head_file_that_nobody_wrote_stops(ledger: Ledger, content: bytes) -> None:
    anchor_of(ledger.path).write_bytes(content)
    with pytest.raises(LedgerBroken, match="head"):
        Ledger(ledger.path).charges()


def test_a_head_file_that_a_crash_left_behind_is_fine_and_catches_up(ledger: Ledger) -> None:
    shutil.copy(ledger.path.parent / "old.head", anchor_of(ledger.path))
    again = Ledger(ledger.path)
    assert len(again.charges()) == 4
    # The charge that was committed and not yet noted: the retry notes it before it returns.
    again.reserve(DUES, round=3, **TERMS)
    assert read_head(ledger.path) == Head(4, again.verify())


def test_both_put_back_together_are_found_by_who_remembers_the_rounds(ledger: Ledger) -> None:
    ledger.require_charged("r1", [0, 3])
    ledger.require_charged("r1", [])
    shutil.copy(ledger.path.parent / "old", ledger.path)
    shutil.copy(ledger.path.parent / "old.head", anchor_of(ledger.path))
    again = Ledger(ledger.path)
    assert len(again.charges()) == 2
    again.require_charged("r1", [0, 1])
    for run, rounds in (("r1", [3]), ("r1", [0, 2]), ("r2", [0])):
        with pytest.raises(LedgerBroken, match=f"no charge for round .* of run {run}"):
            again.require_charged(run, rounds)


def old(database: sqlite3.Connection) -> None:
    """A ledger as cotune wrote it before it knew what data sets hold."""
    database.execute(
        "CREATE TABLE charges (sequence INTEGER PRIMARY KEY, data_set TEXT, unit TEXT, digest TEXT) STRICT"
    )
    database.execute("INSERT INTO charges VALUES (1, 'd', 'patient', 'x')")
    database.execute("PRAGMA user_version = 1")


def by_whole_records(database: sqlite3.Connection) -> None:
    """One from when a data set was known by its texts with their answers: its digests tell nothing about today's."""
    for statement in (*charges.SCHEMA, *holdings.SCHEMA):
        database.execute(statement)
    database.execute("INSERT INTO contents VALUES ('d', x'00')")
    database.execute("PRAGMA user_version = 2")


def newer(database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE charges (sequence INTEGER PRIMARY KEY)")
    database.execute("PRAGMA user_version = 7")


@pytest.mark.parametrize("make", [old, by_whole_records, newer])
def test_a_ledger_of_another_format_is_one_line_and_left_alone(
    tmp_path: Path, make: Callable[[sqlite3.Connection], None]
) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database:
        make(database)
        database.commit()
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"of format [127], this cotune reads format 3") as caught:
        Ledger(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert not anchor_of(path).exists()


def test_a_version_that_was_put_back_makes_no_new_head(ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.path)) as database:
        database.execute("PRAGMA user_version = 0")
    anchor_of(ledger.path).unlink()
    with pytest.raises(UserError, match="of format 0"):
        Ledger(ledger.path)
    assert not anchor_of(ledger.path).exists()


def test_an_empty_ledger_has_a_head_too(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert read_head(ledger.path) == Head(0, GENESIS)
    anchor_of(ledger.path).unlink()
    assert Ledger(ledger.path).charges() == []
    assert read_head(ledger.path) == Head(0, GENESIS)


def test_what_is_committed_is_in_the_one_file(ledger: Ledger) -> None:
    """Also where somebody had switched the database to a write-ahead log."""
    with closing(sqlite3.connect(ledger.path)) as database:
        assert database.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    ledger.reserve(DUES, round=9, **TERMS)
    with closing(sqlite3.connect(ledger.path)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    copy = ledger.path.parent / "copy.sqlite"
    shutil.copy(ledger.path, copy)
    shutil.copy(anchor_of(ledger.path), anchor_of(copy))
    assert len(Ledger(copy).charges()) == 5


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE people (name TEXT)")
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(UserError, match="not a privacy ledger"):
        Ledger(path)
    assert path.read_bytes() == before
    assert not anchor_of(path).exists()


def test_a_head_that_cannot_be_written_is_one_line_and_the_charge_stands(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cotune.privacy.anchor.write_bytes", full)
        with pytest.raises(UserError, match="No space left"):
            ledger.reserve(DUES, round=9, **TERMS)
    assert len(ledger.charges()) == 5
    ledger.reserve(DUES, round=9, **TERMS)
    assert len(ledger.charges()) == 5
    assert read_head(ledger.path) == Head(5, ledger.verify())


def test_the_head_never_moves_back(tmp_path: Path) -> None:
    write_head(tmp_path / "ledger.sqlite", Head(3, "a" * 64))
    assert read_head(tmp_path / "ledger.sqlite") == Head(3, "a" * 64)
    with pytest.raises(LedgerBroken, match="3 of its 3 charges are missing"):
        Ledger(tmp_path / "ledger.sqlite").charges()
