"""What this organization has signed, on disk before the signature leaves: the memory that a restart cannot wipe.

Two different statements under one name are what an attack needs (two advert sets, two uploads under one mask, two sets
of survivors). The journal makes the second one impossible, whichever process asks and whatever old state it was given.
"""

import fcntl
import os
from pathlib import Path
from typing import Protocol

from ..atomic import sync_folder
from .refused import refuse, require

SURVIVE = "survive"
_KINDS = ("advert", "shares", "upload", SURVIVE, "reveal")


class Journal(Protocol):
    """Durable statements. A round is named by run (16 bytes) and number."""

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None:
        """Make a statement durable, then return.

        Args:
            kind: "advert", "shares", "upload", "survive" or "reveal".
            statement: 32 bytes.

        Raises:
            Refused: "journal.conflict" where another statement of this kind was recorded for this attempt; for
                "survive" for any attempt of this round. The same statement again is fine.
        """

    def survived(self, run: bytes, round: int) -> bool:
        """Whether survivors of this round were signed in any attempt."""


def _line(run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> str:
    return f"{run.hex()} {round} {attempt} {kind} {statement.hex()}\n"


class FileJournal:
    """A journal in one append-only text file, 0600, safe between processes (an exclusive lock on each call).

    Args:
        path: created where missing; its folder must exist.

    Raises:
        Refused: "journal.corrupt" where a complete line is not one that this class writes. A last line without its end
            was never followed by a signature; it is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.close(descriptor)
        sync_folder(path.parent)
        self._read()

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None:
        """See `Journal.record`."""
        if kind not in _KINDS:
            raise ValueError(f"unknown kind {kind!r}")
        with open(self._path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            for entry in _parse(whole):
                if _rivals(entry, (run, round, attempt, kind)):
                    if entry == (run, round, attempt, kind, statement):
                        return
                    refuse("journal.conflict", f"another {kind} was already signed for round {round}")
            file.seek(len(whole))
            file.truncate()
            file.write(_line(run, round, attempt, kind, statement).encode())
            file.flush()
            os.fsync(file.fileno())

    def survived(self, run: bytes, round: int) -> bool:
        """See `Journal.survived`."""
        return any(entry[:2] == (run, round) and entry[3] == SURVIVE for entry in self._read())

    def last(self, run: bytes) -> tuple[int, int]:
        """The newest (round, attempt) in which anything was signed, (-1, -1) where nothing was: `Expected.last`."""
        return max((entry[1:3] for entry in self._read() if entry[0] == run), default=(-1, -1))

    def _read(self) -> list[tuple[bytes, int, int, str, bytes]]:
        with open(self._path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            content = file.read()
        return _parse(content[: content.rfind(b"\n") + 1])


def _rivals(entry: tuple[bytes, int, int, str, bytes], wanted: tuple[bytes, int, int, str]) -> bool:
    """Whether both cannot stand side by side unless they are the same."""
    run, round_, attempt, kind = wanted
    return entry[:2] == (run, round_) and entry[3] == kind and (kind == SURVIVE or entry[2] == attempt)


def _parse(content: bytes) -> list[tuple[bytes, int, int, str, bytes]]:
    entries = []
    for number, line in enumerate(content.decode("ascii", "replace").splitlines(keepends=True), start=1):
        try:
            run, round_, attempt, kind, statement = line.split(" ")
            entry = (bytes.fromhex(run), int(round_), int(attempt), kind, bytes.fromhex(statement))
            plain = _line(*entry) == line and kind in _KINDS
        except ValueError:
            plain = False
        require(plain, "journal.corrupt", f"line {number} of the round journal is not readable")
        entries.append(entry)
    return entries
