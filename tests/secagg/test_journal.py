"""What was signed stays signed, across processes, restarts and torn writes."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
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


def test_survivors_are_one_for_all_attempts_other_kinds_one_for_each(path: Path) -> None:
    journal = FileJournal(path)
    for attempt, statement in enumerate((A, B)):
        for kind in ("advert", "shares", "upload", "reveal"):
            journal.record(RUN, 1, attempt, kind, statement)
    journal.record(RUN, 1, 0, "survive", A)
    with pytest.raises(Refused):
        journal.record(RUN, 1, 1, "survive", B)
    journal.record(RUN, 2, 0, "survive", B)
    journal.record(OTHER, 1, 0, "survive", B)


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


def test_an_unknown_kind_is_a_bug(path: Path) -> None:
    with pytest.raises(ValueError, match="kind"):
        FileJournal(path).record(RUN, 1, 0, "dance", A)
