"""What was signed stays signed, across processes, restarts and torn writes."""

import errno
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cotune.errors import UserError
from cotune.secagg import journal as journals
from cotune.secagg.journal import FileJournal
from cotune.secagg.refused import Refused

RUN, OTHER = b"r" * 16, b"o" * 16
A, B = b"a" * 32, b"b" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_a_second_different_statement_is_refused_also_after_a_reload(path: Path) -> None:
    journal = FileJournal(path)
    journal.record(RUN, 1, 0, "survive", A)
    for again in (journal, FileJournal(path)):
        again.record(RUN, 1, 0, "survive", A)
        with pytest.raises(Refused) as no:
            again.record(RUN, 1, 0, "survive", B)
        assert no.value.code == "journal.conflict"
    assert path.read_text().count("\n") == 1


@pytest.mark.parametrize("once", ["survive", "opened"])
def test_survivors_and_openings_are_one_for_all_attempts_other_kinds_one_for_each(path: Path, once: str) -> None:
    journal = FileJournal(path)
    for attempt, statement in enumerate((A, B)):
        for kind in ("advert", "shares", "upload", "reveal"):
            journal.record(RUN, 1, attempt, kind, statement)
    journal.record(RUN, 1, 0, once, A)
    with pytest.raises(Refused):
        journal.record(RUN, 1, 1, once, B)
    journal.record(RUN, 2, 0, once, B)
    journal.record(OTHER, 1, 0, once, B)


def test_what_it_remembers(path: Path) -> None:
    journal = FileJournal(path)
    assert journal.last(RUN) == (-1, -1)
    journal.record(RUN, 3, 1, "advert", A)
    journal.record(RUN, 2, 7, "survive", A)
    journal.record(OTHER, 9, 0, "advert", A)
    again = FileJournal(path)
    assert again.last(RUN) == (3, 1)
    assert again.survived(RUN, 2)
    assert not again.survived(RUN, 3)
    assert not again.survived(OTHER, 2)
    assert again.newest() == {RUN.hex(): (3, 1), OTHER.hex(): (9, 0)}


def test_it_remembers_in_which_attempts_an_upload_was_signed(path: Path) -> None:
    journal = FileJournal(path)
    for attempt, kind in ((0, "upload"), (10, "upload"), (9, "upload"), (11, "complaint")):
        journal.record(RUN, 1, attempt, kind, A)
    journal.record(RUN, 11, 12, "upload", A)
    journal.record(OTHER, 1, 13, "upload", A)
    assert [journal.uploaded(RUN, number) for number in (0, 1, 2, 11)] == [-1, 10, -1, 12]


def test_the_file_is_private(path: Path) -> None:
    os.umask(os.umask(0o022))
    FileJournal(path).record(RUN, 1, 0, "advert", A)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_torn_last_line_is_cut_off(path: Path) -> None:
    """A crash inside the write: nothing was signed yet, so another statement may follow."""
    journal = FileJournal(path)
    journal.record(RUN, 1, 0, "advert", A)
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        FileJournal(path).record(RUN, 2, 0, "advert", B)
        assert path.read_bytes().startswith(whole)
        assert FileJournal(path).last(RUN) == (2, 0)


@pytest.mark.parametrize(
    "line", ["\n", "garbage\n", f"{RUN.hex()} 1 0 dance {A.hex()}\n", f"{RUN.hex()} 01 0 advert 00\n"]
)
def test_a_corrupt_line_is_refused(path: Path, line: str) -> None:
    FileJournal(path).record(RUN, 1, 0, "advert", A)
    path.write_text(line + path.read_text())
    with pytest.raises(Refused) as no:
        FileJournal(path)
    assert no.value.code == "journal.corrupt"


def test_two_open_journals_of_one_file_agree(path: Path) -> None:
    one, other = FileJournal(path), FileJournal(path)
    one.record(RUN, 1, 0, "survive", A)
    with pytest.raises(Refused):
        other.record(RUN, 1, 0, "survive", B)
    assert other.survived(RUN, 1)


def test_the_statement_outlives_a_kill_right_after_it(path: Path) -> None:
    """The process dies without any cleanup as soon as record returned."""
    program = (
        "import os, pathlib, signal, sys\n"
        "from cotune.secagg.journal import FileJournal\n"
        "FileJournal(pathlib.Path(sys.argv[1])).record(b'r' * 16, 1, 0, 'survive', b'a' * 32)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False, timeout=60)
    assert done.returncode == -9
    with pytest.raises(Refused):
        FileJournal(path).record(RUN, 1, 0, "survive", B)


@pytest.mark.parametrize(
    "entry",
    [(RUN, 1, 0, "dance", A), (RUN[1:], 1, 0, "advert", A), (RUN, -1, 0, "advert", A), (RUN, 1, 0, "advert", A[1:])],
)
def test_what_is_no_statement_is_a_bug(path: Path, entry: tuple) -> None:
    with pytest.raises(ValueError, match="not a statement"):
        FileJournal(path).record(*entry)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666, 0o777])
def test_a_journal_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    journal = FileJournal(path)
    path.chmod(mode)
    for use in (lambda: FileJournal(path), lambda: journal.record(RUN, 1, 0, "advert", A), lambda: journal.last(RUN)):
        with pytest.raises(UserError, match="chmod 600"):
            use()
    path.chmod(0o600)
    journal.record(RUN, 1, 0, "advert", A)


def test_a_journal_that_vanished_is_not_begun_again(path: Path) -> None:
    journal = FileJournal(path)
    path.unlink()
    with pytest.raises(UserError, match="nothing was signed"):
        journal.record(RUN, 1, 0, "advert", A)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_journal_is_a_plain_file(path: Path, kind: str) -> None:
    (path.mkdir if kind == "folder" else lambda: os.mkfifo(path, 0o600))()
    with pytest.raises(UserError):
        FileJournal(path)


class Calls:
    """What the journal asks of the disk, in order; `fail` names the calls that fail from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.fail: dict[str, int] = {}
        self.most = 1 << 20
        for name in ("pwrite", "ftruncate", "fsync"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name, call):
        def watched(file, *arguments):
            folder = stat.S_ISDIR(os.fstat(file).st_mode)
            self.made.append("fsync folder" if folder else name)
            if name == "pwrite":
                arguments = (arguments[0][: self.most], *arguments[1:])
            if name in self.fail and not folder:
                if name == "pwrite":
                    call(file, arguments[0][:10], arguments[1])
                raise OSError(self.fail[name], os.strerror(self.fail[name]))
            return call(file, *arguments)

        return watched


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def test_name_and_statement_are_on_the_disk_before_the_return(path: Path, calls: Calls) -> None:
    journal = FileJournal(path)
    assert calls.made == ["fsync folder"]
    journal.record(RUN, 1, 0, "advert", A)
    assert calls.made[-2:] == ["pwrite", "fsync"]


def test_a_statement_that_is_there_is_made_durable_again(
    path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote it may have died before its fsync: what can be read need not be on the disk.

    So the name, once a process.
    """
    for kind in ("survive", "reveal"):
        FileJournal(path).record(RUN, 1, 0, kind, A)
    content = path.read_bytes()
    calls.made.clear()
    FileJournal(path).record(RUN, 1, 0, "survive", A)
    assert calls.made == ["pwrite", "fsync"]
    calls.made.clear()
    monkeypatch.setattr(journals, "_NAMED", set())  # as in another process
    FileJournal(path).record(RUN, 1, 0, "survive", A)
    assert calls.made == ["fsync folder", "pwrite", "fsync"]
    assert path.read_bytes() == content


def test_a_journal_in_the_place_of_another_gets_its_name_on_the_disk(path: Path, calls: Calls) -> None:
    FileJournal(path)
    path.unlink()
    calls.made.clear()
    FileJournal(path)
    assert calls.made == ["fsync folder"]


@pytest.mark.parametrize(("call", "code"), [("pwrite", errno.ENOSPC), ("fsync", errno.EIO), ("fsync", errno.ENOSPC)])
def test_a_write_that_failed_is_taken_back(path: Path, calls: Calls, call: str, code: int) -> None:
    journal = FileJournal(path)
    journal.record(RUN, 1, 0, "advert", A)
    content = path.read_bytes()
    calls.fail = {call: code}
    with pytest.raises(UserError) as no:
        journal.record(RUN, 1, 0, "shares", A)
    assert os.strerror(code) in str(no.value)
    assert len(str(no.value).splitlines()) == 1
    assert path.read_bytes() == content
    calls.fail = {}
    journal.record(RUN, 1, 0, "shares", B)
    assert journal.last(RUN) == (1, 0)


def test_a_failed_fsync_does_not_count_even_if_the_line_stays(path: Path, calls: Calls) -> None:
    """The kernel drops the page after a failed fsync, and the next fsync succeeds with nothing to write."""
    journal = FileJournal(path)
    calls.fail = {"fsync": errno.EIO}
    with pytest.raises(UserError):
        journal.record(RUN, 1, 0, "survive", A)
    calls.fail = {"fsync": errno.EIO}
    path.write_bytes(f"{RUN.hex()} 1 0 survive {A.hex()}\n".encode())
    for _ in range(2):
        with pytest.raises(UserError):
            journal.record(RUN, 1, 0, "survive", A)
    with pytest.raises(Refused):
        journal.record(RUN, 1, 0, "survive", B)
    calls.fail = {}
    journal.record(RUN, 1, 0, "survive", A)
    assert calls.made[-2:] == ["pwrite", "fsync"]


def test_short_writes_are_finished(path: Path, calls: Calls) -> None:
    calls.most = 7
    FileJournal(path).record(RUN, 1, 0, "advert", A)
    assert FileJournal(path).last(RUN) == (1, 0)


def _race(path: Path, statement: bytes, start: float, won: "multiprocessing.Queue[bytes]") -> None:
    journal = FileJournal(path)
    time.sleep(max(0.0, start - time.monotonic()))
    for round_ in range(20):
        try:
            journal.record(RUN, round_, 0, "survive", statement)
        except Refused:
            continue
        won.put(bytes([round_]) + statement)


def test_of_many_processes_one_wins(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    won = context.Queue()
    start = time.monotonic() + 0.3
    workers = [context.Process(target=_race, args=(path, bytes([i]) * 32, start, won)) for i in range(4)]
    for worker in workers:
        worker.start()
    winners = [won.get(timeout=60) for _ in range(20)]
    for worker in workers:
        worker.join(60)
    assert won.empty()
    assert sorted(winner[0] for winner in winners) == list(range(20))
    assert path.read_bytes().count(b"\n") == 20


def test_ten_thousand_rounds_are_no_burden(path: Path) -> None:
    """CPU seconds of all that one message asks of the journal; a tenth of this limit on an idle core."""
    FileJournal(path)
    lines = (
        f"{RUN.hex()} {round_} 0 {kind} {os.urandom(32).hex()}\n"
        for round_ in range(10_000)
        for kind in ("advert", "shares", "upload", "survive", "reveal")
    )
    path.write_text("".join(lines))
    before = time.process_time()
    journal = FileJournal(path)
    assert journal.last(RUN) == (9_999, 0)
    assert journal.survived(RUN, 5_000)
    assert not journal.survived(RUN, 10_000)
    journal.record(RUN, 10_000, 0, "advert", A)
    with pytest.raises(Refused):
        journal.record(RUN, 0, 3, "survive", B)
    assert time.process_time() - before < 3.0
