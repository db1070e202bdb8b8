"""What this organization has signed, on disk before the signature leaves: the memory that a restart cannot wipe.

Two different statements under one name are what an attack needs (two advert sets, two uploads under one mask, two sets
of survivors). The journal makes the second one impossible, whichever process asks and whatever old state it was given.
"""

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from ..atomic import sync_folder
from ..errors import UserError
from .refused import refuse, require

SURVIVE = "survive"
OPENED = "opened"
_KINDS = ("advert", "shares", "upload", "complaint", SURVIVE, "reveal", OPENED)
# Said once in a round, whatever the attempt.
ONCE = (SURVIVE, OPENED)
_NUMBER = rb"(?:0|[1-9][0-9]{0,9})"
_LINE = rb"[0-9a-f]{32} %b %b (?:%b) [0-9a-f]{64}\n" % (_NUMBER, _NUMBER, "|".join(_KINDS).encode())
_LINES = re.compile(rb"(?:%b)*+" % _LINE)  # possessive: no memory for a way back over a long file

# Journals whose name this process made durable: path, device, inode.
_NAMED: set[tuple[str, int, int]] = set()


class Journal(Protocol):
    """Durable statements. A round is named by run (16 bytes) and number."""

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None:
        """Make a statement durable, then return.

        Args:
            kind: "advert", "shares", "upload", "complaint", "survive", "reveal" or "opened".
            statement: 32 bytes.

        Raises:
            Refused: "journal.conflict" where another statement of this kind was recorded for this attempt; for
                "survive" and "opened" for any attempt of this round. The same statement again is fine.
        """

    def survived(self, run: bytes, round: int) -> bool:
        """Whether survivors of this round were signed in any attempt."""


class FileJournal:
    """A journal in one append-only text file, 0600, safe between processes (an exclusive lock on each call).

    Each call reads the whole file: another process may have written, and a damaged line must never be passed over.

    Args:
        path: created where missing; its folder must exist.

    Guarantees:
        After `record` returns, the statement survives a power cut; where it raises, nothing may be signed. That a line
        can be read does not show that it is on the disk: whoever wrote it may have been killed before its fsync, or
        the fsync failed and the kernel forgot the page. So a statement that is there already is written again.

    Raises:
        Refused: "journal.corrupt" where a complete line is not one that this class writes. A last line without its end
            was never followed by a signature; it is cut off.
        UserError: others may read or write the file, or it cannot be read or written (a full disk).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checked = b""
        with self._locked(fcntl.LOCK_SH, os.O_CREAT) as file:
            self._sync_name(file)
            self._whole_lines(file)

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None:
        """See `Journal.record`."""
        line = _line(run, round, attempt, kind, statement)
        with self._locked(fcntl.LOCK_EX) as file:
            content = self._whole_lines(file)
            for start, found in _entries(content, run, round):
                _, _, its_attempt, its_kind, _ = found.split(b" ")
                if its_kind.decode() == kind and (kind in ONCE or int(its_attempt) == attempt):
                    same = found == line
                    require(same, "journal.conflict", f"another {kind} was already signed for round {round + 1}")
                    _write(file, start, line)
                    return
            _append(file, len(content), line)

    def survived(self, run: bytes, round: int) -> bool:
        """See `Journal.survived`."""
        kind = f" {SURVIVE} ".encode()
        return any(kind in line for _, line in _entries(self._read(), run, round))

    def survivals(self, run: bytes) -> dict[int, bytes]:
        """The statement about survivors (32 bytes) that was signed, by round."""
        entry = re.compile(rb"%b (%b) %b %b ([0-9a-f]{64})" % (run.hex().encode(), _NUMBER, _NUMBER, SURVIVE.encode()))
        return {int(round_): bytes.fromhex(found.decode()) for round_, found in entry.findall(self._read())}

    def last(self, run: bytes) -> tuple[int, int]:
        """The newest (round, attempt) in which anything was signed, (-1, -1) where nothing was: `Expected.last`."""
        return self.newest().get(run.hex(), (-1, -1))

    def newest(self) -> dict[str, tuple[int, int]]:
        """Of every run, hex, in which anything was signed: its `last`."""
        found: dict[str, tuple[int, int]] = {}
        # Several lines of an attempt are one here: this is asked at every message, and journals grow long.
        for attempt in {line.rsplit(b" ", 2)[0] for line in self._read().splitlines()}:
            run, *numbers = attempt.decode().split(" ")
            found[run] = max(found.get(run, (-1, -1)), (int(numbers[0]), int(numbers[1])))
        return found

    def opened(self, run: bytes, round: int) -> bool:
        """Whether a piece of a round's uploads was opened in any attempt."""
        return any(b" opened " in line for _, line in _entries(self._read(), run, round))

    def attempts(self, run: bytes) -> frozenset[tuple[int, int]]:
        """Every (round, attempt) of a run in which an advert was signed: after it a contribution may be sent."""
        entry = re.compile(rb"^%b (%b) (%b) advert " % (run.hex().encode(), _NUMBER, _NUMBER), re.MULTILINE)
        return frozenset((int(number), int(attempt)) for number, attempt in entry.findall(self._read()))

    def size(self) -> int:
        """Bytes of all complete lines."""
        return len(self._read())

    def lines_after(self, size: int) -> int:
        """How many lines stand behind the first `size` bytes."""
        return self._read()[size:].count(b"\n")

    def uploaded(self, run: bytes, round: int) -> int:
        """The newest attempt at a round in which an upload was signed, -1 where none was."""
        entry = re.compile(rb"%b %d (%b) upload " % (run.hex().encode(), round, _NUMBER))
        return max(map(int, entry.findall(self._read())), default=-1)

    def _read(self) -> bytes:
        with self._locked(fcntl.LOCK_SH) as file:
            return self._whole_lines(file)

    def _sync_name(self, file: int) -> None:
        """Have the file's name on the disk: whoever made it may have been killed before.

        Once a process for each file, as a name does not become undurable; an empty one may be new under an old inode.
        """
        about = os.fstat(file)
        place = (str(self._path.absolute()), about.st_dev, about.st_ino)
        if about.st_size == 0 or place not in _NAMED:
            sync_folder(self._path.parent)
            _NAMED.add(place)

    def _whole_lines(self, file: int) -> bytes:
        """All complete lines, each one that this module wrote; what was checked before is not parsed again."""
        content = _content(file)
        start = len(self._checked) if content.startswith(self._checked) else 0
        good = _LINES.match(content, start)
        end = good.end() if good else start
        if end < len(content):
            number = content.count(b"\n", 0, end) + 1
            refuse(
                "journal.corrupt", f"line {number} of the round journal is not readable: restore it, never remove it"
            )
        self._checked = content
        return content

    @contextmanager
    def _locked(self, lock: int, create: int = 0) -> Iterator[int]:
        """A descriptor under a lock that every process respects and that goes with the descriptor."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | create, 0o600)
            try:
                fcntl.flock(file, lock)
                self._require_private(os.fstat(file).st_mode)
                yield file
            finally:
                os.close(file)
        except OSError as error:
            what = f"{self._path}: {error.strerror}, nothing was signed"
            raise UserError(what, "free disk space, or give the journal back its place and its mode 600") from error

    def _require_private(self, mode: int) -> None:
        """Who can write here can make this organization sign twice."""
        if not stat.S_ISREG(mode):
            raise UserError(f"{self._path}: not a plain file", "put the round journal back")
        if mode & 0o077:
            raise UserError(f"{self._path}: other users may use the round journal", f"run `chmod 600 {self._path}`")


def _line(run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> bytes:
    line = f"{run.hex()} {round} {attempt} {kind} {statement.hex()}\n".encode()
    if not re.fullmatch(_LINE, line):
        raise ValueError(f"not a statement: kind {kind!r}, round {round!r}, attempt {attempt!r}, or a wrong length")
    return line


def _content(file: int) -> bytes:
    """All complete lines."""
    size = os.fstat(file).st_size
    content = b""
    while len(content) < size and (piece := os.pread(file, size - len(content), len(content))):
        content += piece
    return content[: content.rfind(b"\n") + 1]


def _entries(content: bytes, run: bytes, round: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of every entry of a round. Only a line's start holds 32 digits and a space."""
    name, at = f"{run.hex()} {round} ".encode(), -1
    while (at := content.find(name, at + 1)) >= 0:
        yield at, content[at : content.index(b"\n", at) + 1]


def _append(file: int, end: int, line: bytes) -> None:
    """Write after the last complete line. Where that fails the line is taken back: nothing was signed."""
    os.ftruncate(file, end)
    try:
        _write(file, end, line)
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, end)
        raise


def _write(file: int, start: int, line: bytes) -> None:
    written = 0
    while written < len(line):
        written += os.pwrite(file, line[written:], start + written)
    os.fsync(file)
