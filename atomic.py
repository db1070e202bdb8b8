"""Files and folders that are either the old one or the new one, never half of each: write beside, fsync, rename.

What a killed process leaves is hidden and bears the name of what it was to be, `.NAME.*`, in the same folder: nobody
reads it, and whoever knows that nobody else writes there may delete it. Every function raises OSError where the disk
is full or not writable; then what was there is still there, whole.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write_bytes(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `content` so that a crash at any moment leaves the old file or the new one.

    Args:
        path: the file; its folder must exist.
        content: what it shall hold.
        mode: permission bits; 0o600 for secrets. They hold before the first byte is written.
    """
    replace_bytes(path, content, mode)
    sync_folder(path.parent)


def write_text(path: Path, content: str, mode: int = 0o644) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode(), mode)


def replace_bytes(path: Path, content: bytes, mode: int) -> None:
    """`write_bytes` but for the last step: the new file is durable once `sync_folder` has returned for its folder.

    For several files that are written one after the other; what a power cut leaves of them in between is any of them.
    """
    with replacing(path, mode) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, mode: int) -> Iterator[BinaryIO]:
    """`replace_bytes` for content that is not in memory: an empty file to write, read and map, which replaces `path`.

    That happens behind the block; where the block raises, the file is deleted and `path` is what it was.
    """
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w+b") as file:
            os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(folder: Path, mode: int = 0o755) -> Iterator[Path]:
    """A new folder to fill, 0700, which behind the block gets its permission bits and replaces `folder`: `put_folder`.

    Where the block raises, it is deleted and `folder` is what it was.
    """
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield beside
        beside.chmod(mode)
        put_folder(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def put_folder(beside: Path, folder: Path) -> None:
    """Make `beside` durable with all that is in it, and move it to `folder`, in the place of an earlier one.

    Edge cases: of an earlier one a crash leaves that or the new one; in the moment between two renames neither stands
        in `folder`, and the earlier one is beside it as `.NAME.earlier`. A rename that fails brings it back.
    """
    _sync_tree(beside)
    earlier = folder.with_name(f".{folder.name}.earlier")
    if folder.exists():
        shutil.rmtree(earlier, ignore_errors=True)
        os.rename(folder, earlier)
    try:
        os.rename(beside, folder)
    except OSError:
        with suppress(OSError):
            os.rename(earlier, folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder so that a crash leaves it whole or not at all: what is deleted piece by piece is hidden first."""
    hidden = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    os.rename(folder, hidden)
    sync_folder(folder.parent)
    shutil.rmtree(hidden)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in `folder` durable."""
    _sync(folder)


def _sync_tree(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        for name in files:
            _sync(Path(place, name))
        _sync(Path(place))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
