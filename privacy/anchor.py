"""The ledger's head file: how far the ledger had come, kept outside the ledger, so that an older copy of it is found.

A hash chain cannot know its own end: a database that is put back to last week's state holds together. Beside it stands
a file with the newest charge's number and digest. It is written after a charge is committed and before the charge is
acted on, so a crash can only leave it behind the ledger, which is fine, and never ahead of it, which is a rollback.
Whoever puts back both files together is not found here.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import private_files
from ..atomic import write_bytes
from ..errors import UserError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 1_000


@dataclass(frozen=True)
class Head:
    """The newest charge: its number, 0 where there is none yet, and its digest, hex SHA-256."""

    sequence: int
    digest: str


def anchor_of(ledger: Path) -> Path:
    """Where the head file of a ledger stands."""
    return ledger.with_name(ledger.name + ".head")


def read_head(ledger: Path) -> Head | None:
    """The head that was written last; None where there never was one.

    Raises:
        ValueError: the file is not one that `write_head` wrote. No crash does that: it is replaced as a whole.
        UserError: it cannot be read, is a link, or is open to others.
    """
    path = anchor_of(ledger)
    try:
        content = private_files.read_file(path, _MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "make it readable for this user") from error
    try:
        found = json.loads(content)
        head = Head(**found)
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{path} is not a ledger's head") from None
    if type(head.sequence) is not int or head.sequence < 0 or not _is_digest(head.digest):
        raise ValueError(f"{path} is not a ledger's head")
    return head


def write_head(ledger: Path, head: Head) -> None:
    """Replace the head file, 0600, durably. The caller holds the ledger's write lock.

    Raises:
        UserError: it cannot be written; the old one is still there.
    """
    path = anchor_of(ledger)
    # What a crash left of earlier writes: nobody else writes here while we hold the lock.
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)
    try:
        write_bytes(path, json.dumps(asdict(head)).encode() + b"\n", 0o600)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "check free disk and write access, then try again") from error


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
