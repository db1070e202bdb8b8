"""The digest by which files are pinned and found again: SHA-256 over a file's bytes, in hex."""

import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, 64 digits; it is read in pieces, however large it is.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
