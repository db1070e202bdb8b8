"""Files that are either the old one or the new one, never half of each: write beside, fsync, rename."""

import os
import tempfile
from pathlib import Path


def write_bytes(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `content` so that a crash at any moment leaves the old file or the new one.

    Args:
        path: the file; its folder must exist.
        content: what it shall hold.
        mode: permission bits; 0o600 for secrets. They hold before the first byte is written.
    """
    replace_bytes(path, content, mode)
    sync_folder(path.parent)


def replace_bytes(path: Path, content: bytes, mode: int) -> None:
    """`write_bytes` but for the last step: the new file is durable once `sync_folder` has returned for its folder.

    For several files that are written one after the other; what a power cut leaves of them in between is any of them.
    """
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str, mode: int = 0o644) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode(), mode)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
