"""Files and folders are the old ones or the new ones, wherever a process is killed and whatever call fails."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune import atomic

OLD = {"a": b"old", "deep/b": b"old too"}
NEW = {"a": b"new", "deep/c": b"new too"}
CALLS = ("fsync", "rename", "replace", "unlink", "rmdir")


class PowerCut(BaseException):
    """Nothing after it reaches the disk."""


def fill(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def cut_off(patched: pytest.MonkeyPatch, after: int) -> None:
    """Let so many changes of the disk pass, and none that follows: not even those that would clear up."""
    calls = iter(range(1000))

    def until(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if next(calls) >= after:
                raise PowerCut
            return real(*given, **named)

        return call

    for name in CALLS:
        patched.setattr(os, name, until(getattr(os, name)))
    # Its own error handling would swallow the cut.
    patched.setattr(shutil, "rmtree", until(shutil.rmtree))


def every_cut(tmp_path: Path, prepare: Callable[[Path], None], act: Callable[[Path], None]) -> list[Path]:
    """The folders that `act` left, cut off after each number of changes; the last is one that it finished."""
    left = []
    for after in range(100):
        place = tmp_path / str(after)
        place.mkdir()
        prepare(place)
        left.append(place)
        with pytest.MonkeyPatch.context() as patched:
            cut_off(patched, after)
            try:
                act(place)
            except PowerCut:
                continue
        return left
    raise AssertionError("it never ended")


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    left = every_cut(
        tmp_path,
        lambda place: atomic.write_bytes(place / "file", b"old"),
        lambda place: atomic.write_bytes(place / "file", b"new"),
    )
    found = [(place / "file").read_bytes() for place in left]
    assert found == [b"old"] * 2 + [b"new"] * 2
    assert visible(left[0]) == visible(left[-1]) == ["file"]


def test_a_folder_is_the_old_one_or_the_new_one_or_beside_its_place(tmp_path: Path) -> None:
    def replace(place: Path) -> None:
        with atomic.replacing_folder(place / "folder") as beside:
            fill(beside, NEW)

    left = every_cut(tmp_path, lambda place: fill(place / "folder", OLD), replace)
    kinds = ""
    for place in left:
        folder, earlier = place / "folder", place / ".folder.earlier"
        found = contents(folder if folder.exists() else earlier)
        assert found in (OLD, NEW)
        kinds += "-" if not folder.exists() else "n" if found == NEW else "o"
    assert kinds.strip("o").strip("n") == "-"
    assert [path.name for path in left[-1].iterdir()] == ["folder"]


def test_what_a_crash_left_does_not_stand_in_the_way(tmp_path: Path) -> None:
    fill(tmp_path / ".folder.earlier", OLD)
    for new in (NEW, OLD):
        with atomic.replacing_folder(tmp_path / "folder") as beside:
            fill(beside, new)
        assert contents(tmp_path / "folder") == new
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_is_removed_whole(tmp_path: Path) -> None:
    left = every_cut(
        tmp_path, lambda place: fill(place / "folder", OLD), lambda place: atomic.remove_folder(place / "folder")
    )
    for place in left:
        assert visible(place) in ([], ["folder"])
        if visible(place):
            assert contents(place / "folder") == OLD
    assert list(left[-1].iterdir()) == []


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    fill(tmp_path / "beside", NEW)
    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", lambda *names: (synced.append("rename"), rename(*names))[1])
    atomic.put_folder(tmp_path / "beside", tmp_path / "folder")
    at = synced.index("rename")
    assert {*synced[:at]} == {"a", "c", "deep", "beside"}
    assert synced[at + 1 :] == [tmp_path.name]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_holds_before_the_first_byte(tmp_path: Path, mode: int) -> None:
    old = os.umask(0o077)
    try:
        with atomic.replacing(tmp_path / "file", mode) as file:
            (beside,) = tmp_path.iterdir()
            assert stat.S_IMODE(beside.stat().st_mode) == mode
            file.write(b"content")
        with atomic.replacing_folder(tmp_path / "folder", 0o755) as beside:
            assert stat.S_IMODE(beside.stat().st_mode) == 0o700
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path, failure: BaseException) -> None:
    atomic.write_text(tmp_path / "file", "old")
    fill(tmp_path / "folder", OLD)

    def write() -> None:
        with atomic.replacing(tmp_path / "file", 0o644) as file:
            file.write(b"ne")
            raise failure

    def replace() -> None:
        with atomic.replacing_folder(tmp_path / "folder") as beside:
            fill(beside, NEW)
            raise failure

    for act in (write, replace):
        with pytest.raises(type(failure)):
            act()
    assert (tmp_path / "file").read_text() == "old"
    assert contents(tmp_path / "folder") == OLD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
