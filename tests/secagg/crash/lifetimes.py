"""Lives of an organization's process: started once, this program forks a child for each life, which may end anywhere.

A child handles one message as a node does and writes its reply to the pipe. At the k-th event that touches the disk or
the pipe it kills itself with SIGKILL, or from the k-th event on its disk is full. `os.fsync` itself is counted and not
called: a killed process leaves the kernel's cache as it is, and the machine's own disk is slow. What a power cut would
leave is kept apart, see `Disk`.

Frames on stdin: a life, a dict, see `conftest.Machine`. Frames on stdout: the child's (reply, events), if it lived so
long; then None.
"""

import errno
import gc
import os
import pickle
import shutil
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

LENGTH = 8


def send(pipe: BinaryIO, value: object) -> None:
    content = pickle.dumps(value)
    pipe.write(len(content).to_bytes(LENGTH, "big") + content)
    pipe.flush()


def receive(pipe: BinaryIO) -> Any:
    head = pipe.read(LENGTH)
    if len(head) < LENGTH:
        raise EOFError
    return pickle.loads(pipe.read(int.from_bytes(head, "big")))


class Disk:
    """What a power cut would leave of one folder: contents as of their last fsync, names as of the folder's.

    It is kept in `shadow`: a file for each inode, and `names`, the last listing. A file whose name was synced and whose
    content never was is empty.
    """

    def __init__(self, folder: Path, shadow: Path) -> None:
        self.folder, self.shadow = folder, shadow
        shadow.mkdir(exist_ok=True)

    def synced(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path == self.folder:
            names = {entry.name: entry.inode() for entry in os.scandir(path) if entry.is_file()}
            (self.shadow / "names").write_bytes(pickle.dumps(names))
        elif path.parent == self.folder:
            shutil.copyfile(path, self.shadow / str(os.fstat(descriptor).st_ino))

    def cut(self) -> None:
        """Power off and on: the folder holds what was durable, except SQLite's files, which sync themselves."""
        for path in self.folder.iterdir():
            if path.is_file() and "sqlite" not in path.name and path.name not in KEPT:
                path.unlink()
        listing = self.shadow / "names"
        for name, inode in (pickle.loads(listing.read_bytes()) if listing.exists() else {}).items():
            content = self.shadow / str(inode)
            if "sqlite" not in name and name not in KEPT:
                (self.folder / name).write_bytes(content.read_bytes() if content.exists() else b"")
                (self.folder / name).chmod(0o600)
        self.settle()

    def settle(self) -> None:
        """All that is in the folder is durable."""
        shutil.rmtree(self.shadow, ignore_errors=True)
        self.shadow.mkdir()
        names = {entry.name: entry.inode() for entry in os.scandir(self.folder) if entry.is_file()}
        for name, inode in names.items():
            shutil.copyfile(self.folder / name, self.shadow / str(inode))
        (self.shadow / "names").write_bytes(pickle.dumps(names))

    def outline(self) -> tuple[tuple[str, int, int], ...]:
        """(name, size, durable size) of every file: what tells one end of a life from another."""
        listing = self.shadow / "names"
        names = pickle.loads(listing.read_bytes()) if listing.exists() else {}
        sizes: dict[str, list[int]] = {}
        for path in self.folder.iterdir():
            sizes.setdefault(path.name, [-1, -1])[0] = path.stat().st_size
        for name, inode in names.items():
            content = self.shadow / str(inode)
            sizes.setdefault(name, [-1, -1])[1] = content.stat().st_size if content.exists() else 0
        # A file beside its place has a random end to its name, and is deleted whatever it holds.
        beside = {(name[:12], 0, 0) for name in sizes if name[0] == "."}
        return tuple(sorted(beside | {(name, *both) for name, both in sizes.items() if name[0] != "."}))


# Written by other commands long before a round.
KEPT = ("identity.key", "charter.yaml", "signatures.json", "policy.yaml", "node.yaml", "records.jsonl", "lock")


class Events:
    """Counts what touches the disk or the pipe, and ends the life, or fills the disk, at the chosen one."""

    def __init__(self, at: int | None, full: bool, disk: Disk) -> None:
        self.at, self.full, self.disk, self.count = at, full, disk, 0

    def moment(self) -> None:
        """A moment at which the process may be killed."""
        if not self.full:
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)

    def space(self) -> None:
        """A moment at which the disk may turn out to be full, and stays so."""
        if self.full:
            self.count += 1
            if self.at is not None and self.count >= self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def install(self) -> None:
        """Stand between the process and the calls by which it writes."""
        replace, unlink, pwrite, fdopen, connect = os.replace, os.unlink, os.pwrite, os.fdopen, sqlite3.connect

        def around(call: Callable[..., Any], needs_space: bool = True) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **options: Any) -> Any:
                self.moment()
                if needs_space:
                    self.space()
                result = call(*arguments, **options)
                self.moment()
                return result

            return wrapped

        def torn(descriptor: int, content: bytes, offset: int) -> int:
            half = len(content) // 2
            self.moment()
            pwrite(descriptor, content[:half], offset)
            self.moment()
            self.space()
            pwrite(descriptor, content[half:], offset + half)
            self.moment()
            return len(content)

        os.fsync = around(self.disk.synced)  # type: ignore[assignment]
        os.replace = around(replace)  # type: ignore[assignment]
        os.unlink = around(unlink, needs_space=False)  # type: ignore[assignment]
        os.pwrite = torn  # type: ignore[assignment]
        os.fdopen = lambda *arguments: Torn(fdopen(*arguments), self)  # type: ignore[assignment]

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> Any:
                if statement.startswith(("INSERT", "COMMIT")):
                    try:
                        return around(super().execute)(statement, *values)
                    except OSError as error:
                        raise sqlite3.OperationalError("No space left on device") from error
                return super().execute(statement, *values)

        sqlite3.connect = lambda *a, **options: connect(*a, factory=Connection, **options)  # type: ignore[assignment]


class Torn:
    """A file whose writes can end in the middle."""

    def __init__(self, file: Any, events: Events) -> None:
        self._file, self._events = file, events

    def __enter__(self) -> "Torn":
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: bytes) -> None:
        half = len(content) // 2
        self._events.moment()
        self._file.write(content[:half])
        self._file.flush()
        self._events.moment()
        self._events.space()
        self._file.write(content[half:])
        self._file.flush()
        self._events.moment()


def live(handle: Callable[[dict[str, Any]], Any], life: dict[str, Any], out: BinaryIO) -> None:
    """One life: a message comes in, its reply goes out."""
    events = Events(life["at"], life["full"], Disk(life["home"], life["home"].parent / "shadow"))
    events.install()
    try:
        reply = handle(life)
    except Exception as error:
        reply = error
        if not isinstance(error, life["refusals"]):
            reply = RuntimeError(traceback.format_exc())
    events.moment()
    send(out, (reply, events.count + 1))
    events.moment()
    os._exit(0)


def serve(handle: Callable[[dict[str, Any]], Any]) -> None:
    """Fork a child for each life on stdin until it ends."""
    gc.freeze()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            life = receive(sys.stdin.buffer)
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            live(handle, life, out)
        os.waitpid(child, 0)
        send(out, None)
