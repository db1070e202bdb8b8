"""kill -9 at every line and inside SQLite's writes, a full disk, a clock that jumps: nothing is lost, nothing is free.

Each trial forks: the child opens the ledger and charges one event to two accounts, the parent looks at what is left.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cotune.errors import UserError
from cotune.privacy import accounts
from cotune.privacy import ledger as ledgers
from cotune.privacy.anchor import anchor_of, read_head
from cotune.privacy.charges import Due
from cotune.privacy.holdings import Holdings
from cotune.privacy.ledger import Ledger, LedgerBroken

WATCHED = ("ledger.py", "accounts.py", "charges.py", "holdings.py", "anchor.py", "atomic.py", "contextlib.py")
TERMS: dict[str, Any] = {
    "charter": "c" * 64,
    "run": "r1",
    "attempt": 0,
    "sample_rate": 0.25,
    "steps": 1,
    "delta": 1e-5,
}
DUES = [Due("patient | server + 1 other", 1.0, 1e6), Due("patient", 0.5, 1e6)]


def data_of(number: int) -> Holdings:
    """Another data set for each round, so that its contents are written too; all are kin and share one account.

    Most are longer than a page. Those that are killed at each line, by threes, are short: a loop over digests is dull.
    """
    size = 300 if number % 3 else 1
    return Holdings.of([b"d" * 16, *(number.to_bytes(8) + digest.to_bytes(8) for digest in range(size))])


def charged_and_held(path: Path) -> tuple[set[str], set[str]]:
    """The data sets with a charge, and those whose contents are stored."""
    with closing(sqlite3.connect(path)) as database:
        names = [database.execute(f"SELECT data_set FROM {table}").fetchall() for table in ("charges", "contents")]
    charged, held = ({name for (name,) in rows} for rows in names)
    return charged, held


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger's place; one step costs one."""
    monkeypatch.setattr(accounts, "epsilon", lambda history, delta: float(sum(steps for *_, steps in history)))
    return tmp_path / "ledger.sqlite"


def trial(path: Path, number: int, arm: Callable[[], None], watch: Callable[[int], None] | None = None) -> bool:
    """Reserve round `number` in a child that `arm` endangers; whether the child saw `reserve` return."""
    told, tell = os.pipe()
    data = data_of(number)
    child = os.fork()
    if child == 0:
        os.close(told)
        try:
            arm()
            Ledger(path).reserve(DUES, data=data, round=number, **TERMS)
            sys.settrace(None)
            os.write(tell, b"1")
        except UserError:
            os.write(tell, b"")
        finally:
            os._exit(0)
    os.close(tell)
    if watch is not None:
        watch(child)
    returned = os.read(told, 1) == b"1"
    os.close(told)
    os.waitpid(child, 0)
    return returned


def survivors(path: Path, returned: set[int], asked: int) -> None:
    """What was returned is there, at most what was asked besides; asking again costs nothing twice."""
    ledger = Ledger(path)
    charged_rows = [(row.round, row.unit) for row in ledger.charges()]
    held = list(dict.fromkeys(number for number, _ in charged_rows))
    # Each event on both accounts, one after the other, or on none.
    assert charged_rows == [(number, due.unit) for number in held for due in DUES]
    assert returned <= set(held) <= returned | {asked}
    # The charge with what its data set holds, or neither.
    charged, stored = charged_and_held(path)
    assert charged == stored == {data_of(number).name for number in held}
    again = ledger.reserve(DUES, data=data_of(asked), round=asked, **TERMS)
    after = ledger.charges()
    assert len(after) == 2 * len(set(held) | {asked})
    place = after.index(again[0])
    assert tuple(after[place : place + 2]) == again
    assert [row.spent_epsilon for row in again] == [place // 2 + 1] * 2
    head = read_head(path)
    assert head is not None
    assert (head.sequence, head.digest) == (len(after), ledger.verify())
    # What a crash leaves behind is swept.
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, anchor_of(path).name]
    returned.add(asked)


def dies_at_line(number: int) -> Callable[[], None]:
    """SIGKILL before the numbered line of the watched modules is run."""
    left = number

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(WATCHED):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return lambda: sys.settrace(trace)


def test_killed_before_any_line(path: Path) -> None:
    """From the first line of a ledger that does not exist yet to the last of `reserve`."""
    returned: set[int] = set()
    line, finished = 1, False
    while not finished:
        fresh = path.parent / f"{line}"
        fresh.mkdir()
        finished = trial(fresh / path.name, 0, dies_at_line(line))
        survivors(fresh / path.name, {0} if finished else set(), 0)
        shutil.rmtree(fresh)
        # And with charges there already.
        if line % 3 == 0:
            if trial(path, line, dies_at_line(line)):
                returned.add(line)
            survivors(path, returned, line)
        line += 1
    assert line > 100


def limits(mode: Any, size: int) -> Callable[[], None]:
    """Files may not grow beyond `size`: a write there fails (SIG_IGN) or ends the process within it (SIG_DFL)."""

    def arm() -> None:
        signal.signal(signal.SIGXFSZ, mode)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return arm


@pytest.mark.parametrize("mode", [signal.SIG_IGN, signal.SIG_DFL], ids=["full disk", "killed"])
def test_a_write_that_does_not_fit(path: Path, mode: Any) -> None:
    """Every place where SQLite's journal, the database or the head file can be cut off."""
    returned: set[int] = set()
    outcomes = set()
    Ledger(path)
    # Within the rollback journal; then at the end of the database, where a page is appended now and then.
    within = [*range(0, 600, 60), *range(600, 13_500, 647)]
    beyond = [-4096, -1, 0, 1] * 6
    for number, size in enumerate([*within, *beyond, 10**6]):
        size += path.stat().st_size if number >= len(within) else 0
        done = trial(path, number, limits(mode, size))
        outcomes.add(done)
        if done:
            returned.add(number)
        without_its_journal(path, returned)
        survivors(path, returned, number)
    assert outcomes == {True, False}


def without_its_journal(path: Path, returned: set[int]) -> None:
    """Somebody tidies up the rollback journal of a crash: the damage is found, or there was none."""
    journal = path.with_name(path.name + "-journal")
    if not journal.exists():
        return
    folder = path.parent / "tidied"
    folder.mkdir()
    for file in (path, anchor_of(path)):
        if file.exists():
            shutil.copy(file, folder / file.name)
    with contextlib.suppress(LedgerBroken):
        assert {row.round for row in Ledger(folder / path.name).charges()} >= returned
    shutil.rmtree(folder)


def test_killed_at_random_moments(path: Path) -> None:
    """Also inside SQLite's own commit, where no line of ours stands."""
    chance = random.Random(7)
    Ledger(path)
    took = []
    for number in range(5):
        started = time.perf_counter()
        trial(path, 1_000_000 + number, lambda: None)
        took.append(time.perf_counter() - started)
    # The median: with the mean, one stall of the disk in these five would let nearly all of the others live.
    typical = sorted(took)[2]
    returned = {row.round for row in Ledger(path).charges()}
    killed = 0
    for number in range(120):

        def watch(child: int) -> None:
            time.sleep(chance.uniform(0, 1.1 * typical))
            os.kill(child, signal.SIGKILL)

        if trial(path, number, lambda: None, watch):
            returned.add(number)
        else:
            killed += 1
        survivors(path, returned, number)
    assert killed > 12


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """A clock that goes a day back at every look."""
    seen = [datetime(2026, 3, 1, tzinfo=UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            seen.append(seen[-1] - timedelta(days=1))
            return seen[-1]

    monkeypatch.setattr(ledgers, "datetime", Clock)
    return seen


def test_a_clock_that_jumps_back_changes_nothing_but_the_dates(path: Path, jumping: list[datetime]) -> None:
    ledger = Ledger(path)
    spent = [ledger.reserve(DUES, data=data_of(0), round=number, **TERMS)[0].spent_epsilon for number in range(5)]
    assert spent == [1.0, 2.0, 3.0, 4.0, 5.0]
    rows = Ledger(path).charges()
    assert [row.round for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [row.reserved_at for row in rows] == sorted((row.reserved_at for row in rows), reverse=True)
    assert len(jumping) == 6
