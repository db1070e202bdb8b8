"""Fetching wheels: the hash decides, nothing half is kept, and nothing leaves its folder."""

import errno
import hashlib
import io
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.data import packages, wheels
from cotune.data.packages import PinnedPackage, fetch
from cotune.errors import UserError

NAME = "cotune_probe-1.0-py3-none-any.whl"


def wheel_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


FILES = {
    "probe/data.txt": b"hello",
    "cotune_probe-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: cotune-probe\nVersion: 1.0\n",
    "cotune_probe-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "cotune_probe-1.0.dist-info/RECORD": b"",
}
GOOD = wheel_bytes(FILES)
PACKAGE = PinnedPackage(name="cotune-probe", version="1.0", sha256=hashlib.sha256(GOOD).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes for the whole world."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for pip, which takes seconds."""
    folder = tmp_path / "shelf"
    folder.mkdir()

    def take(package: PinnedPackage, into: Path, damage: str) -> Path:
        if not (folder / NAME).exists():
            raise UserError(f"{package} is {damage} and cannot be downloaded", "connect")
        return Path(shutil.copy(folder / NAME, into))

    monkeypatch.setattr(packages, "_download", take)
    return folder


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_fetched_once_by_pip_then_offline(index: Path, tmp_path: Path) -> None:
    (index / NAME).write_bytes(GOOD)
    folder = fetch(PACKAGE, tmp_path / "cache")
    assert (folder / "probe" / "data.txt").read_bytes() == b"hello"
    (index / NAME).unlink()
    assert fetch(PACKAGE, tmp_path / "cache") == folder
    assert left(tmp_path / "cache") == [folder.name]


def test_without_network_and_cache_one_line(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cotune-probe==1.0 is not in the cache and cannot be downloaded") as caught:
        fetch(PACKAGE, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not left(tmp_path / "cache")


def test_another_hash_keeps_nothing(index: Path, tmp_path: Path) -> None:
    (index / NAME).write_bytes(wheel_bytes({**FILES, "probe/data.txt": b"evil"}))
    with pytest.raises(UserError, match=r"the wheel has the SHA-256 .*, expected"):
        fetch(PACKAGE, tmp_path / "cache")
    assert not left(tmp_path / "cache")


@pytest.mark.parametrize("damage", ["change", "cut", "remove", "manifest", "add"])
def test_a_damaged_cache_is_noticed_and_replaced(shelf: Path, tmp_path: Path, damage: str) -> None:
    (shelf / NAME).write_bytes(GOOD)
    folder = fetch(PACKAGE, tmp_path / "cache")
    file = folder / (packages.MANIFEST if damage == "manifest" else "probe/data.txt")
    if damage == "remove":
        file.unlink()
    elif damage == "add":
        (folder / "probe" / "more.txt").write_bytes(b"read by something")
    else:
        file.write_bytes({"change": b"hellO", "cut": b"hel", "manifest": b"{"}[damage])
    (shelf / NAME).unlink()
    with pytest.raises(UserError, match="is damaged in the cache and cannot be downloaded"):
        fetch(PACKAGE, tmp_path / "cache")
    (shelf / NAME).write_bytes(GOOD)
    assert (fetch(PACKAGE, tmp_path / "cache") / "probe" / "data.txt").read_bytes() == b"hello"
    assert left(tmp_path / "cache") == [folder.name]


def test_a_full_disk_is_one_line_and_keeps_nothing(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (shelf / NAME).write_bytes(GOOD)
    monkeypatch.setattr(wheels.shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="the disk is full"):
        fetch(PACKAGE, tmp_path / "cache")
    assert not left(tmp_path / "cache")


def test_a_process_killed_while_unpacking_leaves_nothing_that_passes(index: Path, tmp_path: Path) -> None:
    (index / NAME).write_bytes(GOOD)
    program = (
        "import os, pathlib, sys; from cotune.data import packages;"
        "packages._write_manifest = lambda *_: os._exit(9);"
        f"packages.fetch(packages.PinnedPackage(name='cotune-probe', version='1.0', sha256='{PACKAGE.sha256}'), "
        "pathlib.Path(sys.argv[1]))"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "cache")], check=False)
    assert killed.returncode == 9
    assert (fetch(PACKAGE, tmp_path / "cache") / "probe" / "data.txt").read_bytes() == b"hello"


def test_two_processes_fetch_at_once(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one finishes between our check and our rename; its work is taken."""
    (shelf / NAME).write_bytes(GOOD)
    real: Callable[..., None] = packages._put

    def late(fresh: Path, folder: Path, package: PinnedPackage) -> None:
        monkeypatch.setattr(packages, "_put", real)
        fetch(package, folder.parent)
        real(fresh, folder, package)

    monkeypatch.setattr(packages, "_put", late)
    assert (fetch(PACKAGE, tmp_path / "cache") / "probe" / "data.txt").read_bytes() == b"hello"


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/etc/out", "a\\..\\out", "C:/out", "a\0b"])
def test_no_file_leaves_the_folder(tmp_path: Path, name: str) -> None:
    wheel = tmp_path / "bad.whl"
    content = wheel_bytes({"q" * len(name): b"x"}).replace(b"q" * len(name), name.encode())
    wheel.write_bytes(content)
    if "\0" in name:  # zipfile itself cuts the name there
        wheels.unpack(wheel, tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
        return
    with pytest.raises(UserError, match="unsafe name"):
        wheels.unpack(wheel, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.whl"]


def test_no_links_no_twins_no_bombs_no_broken_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(content: bytes, said: str) -> None:
        wheel = tmp_path / "bad.whl"
        wheel.write_bytes(content)
        with pytest.raises(UserError, match=said):
            wheels.unpack(wheel, tmp_path / "out")

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(buffer.getvalue(), "unsafe name")
    refused(wheel_bytes({"aa": b"x", "ab": b"y"}).replace(b"ab", b"aa"), "one file name twice")
    refused(b"PK not a zip", "damaged archive")
    monkeypatch.setattr(wheels, "MAX_BYTES", 3)
    refused(GOOD, "more than a wheel may hold")
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    refused(GOOD.replace(b"hello", b"hullo"), "damaged archive")


@pytest.mark.parametrize(
    ("name", "version"),
    [("-rhttps://example.org/r.txt?", "1"), ("x @ https://example.org/x.tar.gz", "1"), ("../x", "1"), ("x", "1 -i y")],
)
def test_what_pip_would_take_for_more_than_a_name_is_refused(name: str, version: str) -> None:
    with pytest.raises(UserError, match="no pinned package"):
        PinnedPackage(name=name, version=version, sha256="0" * 64)
