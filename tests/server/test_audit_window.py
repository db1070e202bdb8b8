"""The window holds whole rounds, the last ones only, and nothing of an attempt that came to nothing."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.secagg.control import CONTROL_WORDS
from cotune.secagg.encoding import Encoding
from cotune.server import audit_window
from cotune.server.audit_window import AuditWindow
from cotune.verify.kept import SUM, kept_rounds, kept_words

WORDS = np.arange(CONTROL_WORDS + 5, dtype="<u8") << np.uint64(40)


def plan(number: int) -> Any:
    return SimpleNamespace(round=number, cohort=(0, 1, 2), encoding=Encoding(((15, 1.0),), 3, 21))


def fill(window: AuditWindow, number: int) -> None:
    window.begin(plan(number))
    for index in (0, 2):
        window.add(number, index, WORDS + np.uint64(index))


def files(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run / "uploads")) for path in (run / "uploads").rglob("*") if path.is_file())


def test_a_round_comes_back_word_for_word(tmp_path: Path) -> None:
    window = AuditWindow(tmp_path, 2)
    fill(window, 7)
    assert kept_rounds(tmp_path) == []
    window.keep(7, WORDS)
    assert kept_rounds(tmp_path) == [7]
    for name, expected in ((0, WORDS), (2, WORDS + np.uint64(2)), (SUM, WORDS)):
        found = kept_words(tmp_path, 7, name)
        np.testing.assert_array_equal(found, expected)
        assert (tmp_path / "uploads" / "0007" / f"{name}.words").read_bytes() == expected.tobytes()
    assert kept_words(tmp_path, 7, 1) is None
    assert {path.stat().st_mode & 0o77 for path in (tmp_path / "uploads").rglob("*")} == {0}


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_only_the_last_rounds_are_kept(tmp_path: Path, rounds: int) -> None:
    window = AuditWindow(tmp_path, rounds)
    for number in range(5):
        fill(window, number)
        window.keep(number, WORDS)
        # Round 1 was burned: it has no record, and does not count.
        window.forget([done for done in range(number + 1) if done != 1])
        if number == 1:
            assert 1 not in kept_rounds(tmp_path)
    assert kept_rounds(tmp_path) == [0, 2, 3, 4][4 - rounds :]


def test_what_a_failed_attempt_left_is_gone_with_the_next(tmp_path: Path) -> None:
    window = AuditWindow(tmp_path, 2)
    fill(window, 0)
    window.begin(plan(0))
    window.add(0, 1, WORDS)
    window.keep(0, WORDS)
    assert files(tmp_path) == ["0000/1.words", "0000/sum.words"]
    fill(window, 1)
    window.forget([0])
    assert files(tmp_path) == ["0000/1.words", "0000/sum.words"]


def test_other_folders_are_passed_over(tmp_path: Path) -> None:
    """Digits that are not ASCII, a number that is not written as a round's, a file."""
    for name in ("\u00b2", "7", "00007", "x", ".0003"):
        (tmp_path / "uploads" / name).mkdir(parents=True)
    (tmp_path / "uploads" / "0004").write_bytes(b"")
    assert kept_rounds(tmp_path) == []
    fill(window := AuditWindow(tmp_path, 2), 12)
    window.keep(12, WORDS)
    assert kept_rounds(tmp_path) == [12]
    window.forget([12])
    assert {found.name for found in (tmp_path / "uploads").iterdir()} == {"0004", "0012"}


def test_a_crash_at_any_moment_leaves_whole_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every change of the disk in turn is the last one; after a restart the window is that of the committed rounds."""

    class PowerCut(BaseException):
        pass

    def life(run: Path, commit: Any) -> None:
        window = AuditWindow(run, 1)
        for number in range(3):
            fill(window, number)
            window.keep(number, WORDS)
            commit(number)
            window.forget(range(number + 1))

    for failing in range(200):
        run, committed, calls = tmp_path / str(failing), [], iter(range(1000))
        run.mkdir()

        def cut(real: Any, failing: int = failing, calls: Any = calls) -> Any:
            def call(*given: Any, **named: Any) -> Any:
                if next(calls) == failing:
                    raise PowerCut
                return real(*given, **named)

            return call

        with monkeypatch.context() as patched:
            for place, name in ((os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "fsync"), (os, "rename")):
                patched.setattr(place, name, cut(getattr(place, name)))
            try:
                life(run, committed.append)
            except PowerCut:
                pass
            else:
                break
        assert set(committed[-1:]) - set(kept_rounds(run)) == set(), failing
        AuditWindow(run, 1).forget(committed)
        assert kept_rounds(run) == committed[-1:], failing
        found = files(run) if (run / "uploads").exists() else []
        assert found == [f"{number:04d}/{name}.words" for number in committed[-1:] for name in (0, 2, "sum")], failing
    else:
        raise AssertionError("the crashes never ended")
    assert failing > 15


def test_too_little_disk_is_one_line_before_anybody_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_window.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    with pytest.raises(UserError, match="1 MB free, but the uploads of a round may take 17 MB") as no:
        AuditWindow(tmp_path, 1).begin(plan(0))
    assert "\n" not in str(no.value)


def test_a_disk_that_fills_up_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    window = AuditWindow(tmp_path, 1)
    window.begin(plan(0))

    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(audit_window, "write_bytes", full)
    with pytest.raises(UserError, match=r"0\.words: No space left on device: free disk space"):
        window.add(0, 0, WORDS)
