"""Which code made a kept result, so that none is shown as that of another version of it."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from ..digest import file_digest

_ROOT = Path(__file__).parents[1]
# Beside the package in a checkout, and no part of what is installed.
_BESIDE = {"tests", "benchmarks", "docs"}
_CODE = {".py", ".yaml", ".txt"}


@cache
def code_version() -> str:
    """The package's version, and a SHA-256 over the names and contents of its modules and settings."""
    rooms = [path.parent for path in sorted(_ROOT.glob("*/__init__.py")) if path.parent.name not in _BESIDE]
    found = hashlib.sha256()
    inside = [file for room in rooms for file in room.rglob("*") if file.suffix in _CODE]
    # Beside the rooms lie what they share, `spelling` with the canonical form of ids among it.
    for file in sorted([*inside, *_ROOT.glob("*.py")]):
        content = file_digest(file)
        found.update(f"{file.relative_to(_ROOT).as_posix()} {content}\n".encode())
    return f"{version('cotune')} {found.hexdigest()}"
