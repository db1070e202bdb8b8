"""Data that others could change, or that everybody can read, is refused, whatever links lead to it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cotune.errors import UserError
from cotune.private_files import PRIVATE, READABLE, open_file, read_file, require_data, require_file


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def data(folder: Path) -> Path:
    file = folder / "data" / "records.jsonl"
    file.parent.mkdir(mode=0o755)
    file.write_text("{}\n")
    file.chmod(0o640)
    return file


def test_data_that_a_group_may_read_is_taken(data: Path) -> None:
    require_data(data)
    require_data(data.parent / "missing.jsonl")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o660])
def test_data_that_others_can_write_is_refused(data: Path, mode: int) -> None:
    data.chmod(mode)
    with pytest.raises(UserError, match=f"others can write to the data: run `chmod go-w {data}`"):
        require_data(data)


def test_data_that_everybody_can_read_is_refused(data: Path) -> None:
    data.chmod(0o644)
    with pytest.raises(UserError, match=f"everybody on this machine can read the data: run `chmod 600 {data}`"):
        require_data(data)
    data.parent.chmod(0o750)  # nobody else gets to it
    require_data(data)


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o757, 0o775])
def test_a_folder_in_which_others_can_rename_is_refused(data: Path, mode: int) -> None:
    folder = data.parent
    folder.chmod(mode)
    with pytest.raises(UserError, match=f"in {folder}: run `chmod go-w {folder}`"):
        require_data(data)
    folder.chmod(mode | 0o1000)
    require_data(data)


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o1777])
def test_under_a_folder_for_all_only_own_folders_are_taken(
    data: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the umask of many systems a user's folders may be written by a group that is the user's alone."""
    data.parent.parent.chmod(mode)
    require_data(data)
    _give_away(data.parent, monkeypatch)
    with pytest.raises(UserError, match=f"{data.parent}: owned by user 4711"):
        require_data(data)


def _give_away(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.lstat

    def lstat(path: Path) -> os.stat_result:
        about = real(path)
        return os.stat_result([*about[:4], 4711, *about[5:10]]) if path == given else about

    monkeypatch.setattr(os, "lstat", lstat)


def test_in_a_folder_for_all_only_own_files_are_taken(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.parent.chmod(0o1777)
    _give_away(data, monkeypatch)
    with pytest.raises(UserError, match="owned by user 4711"):
        require_data(data)
    data.parent.chmod(0o755)
    require_data(data)  # a share's owner may be another user


def test_links_are_followed_and_everything_on_the_way_is_checked(folder: Path, data: Path) -> None:
    (folder / "a").mkdir(mode=0o755)
    (folder / "b").mkdir(mode=0o755)
    (folder / "b" / "up").symlink_to("../data")
    link = folder / "a" / "link.jsonl"
    link.symlink_to(folder / "b" / "up" / "records.jsonl")
    require_data(link)
    require_data(folder / "a" / ".." / "b" / "up" / "records.jsonl")
    for step in (folder / "a", folder / "b", data.parent):
        step.chmod(0o777)
        with pytest.raises(UserError, match="others can put another file"):
            require_data(link)
        step.chmod(0o755)
    data.chmod(0o666)
    with pytest.raises(UserError, match="others can write"):
        require_data(link)
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(UserError, match="too many links"):
        require_data(link)


def test_the_mend_mends(data: Path) -> None:
    """What the refusals say, done in their order, ends them."""
    data.chmod(0o666)
    data.parent.chmod(0o777)
    for _ in range(4):
        try:
            require_data(data)
        except UserError as error:
            command = error.mend.split("`")[1]
            assert os.system(command) == 0
        else:
            return
    pytest.fail("still refused")


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UserError, match="not a plain file"):
        read_file(tmp_path / "pipe", 10)
    with pytest.raises(UserError, match="not a plain file"):
        require_file(tmp_path / "pipe")


def test_a_link_is_neither_followed_nor_made_a_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(UserError, match="not a plain file"):
        open_file(tmp_path / "link", os.O_WRONLY | os.O_CREAT)
    assert not (tmp_path / "target").exists()


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "file").chmod(0o644)
    assert read_file(tmp_path / "file", 4, READABLE) == b"0123"
    with pytest.raises(UserError, match="other users may use it"):
        read_file(tmp_path / "file", 4, PRIVATE)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none", 4)
