"""A run's folder: whose settings it holds, whether to continue or start afresh, and where each thing lies in it.

settings.json      what the run was started with, and the digests of its data files
server/            coordinator's key, charter, signatures, code of a strategy of one's own, run/ (committed rounds)
nodes/NAME/        the homes of the organizations, as on machines of their own
pooled/            a home for the forbidden arm: all records in one place
basis.safetensors  frozen directions of the adapter, where its form has some
arms/NAME.json     results of finished arms
report.json, curves.png, confusion.png, release/, and examples.md of free text whose test set is public
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..conf.schema import Settings
from ..digest import file_digest
from ..errors import UserError
from .reporting.differences import first_difference

# Beside the checkpoints a run holds cached hidden states; the features of a row of 32 tokens take about 75 kB.
SMALLEST_DISK = 2 * 10**9
# How a run is computed, not what: these may differ when it is continued.
MEANS = ("workers", "threads_per_worker", "object_store_megabytes", "evaluation_batch_tokens", "physical_batch_tokens")
# Nor do these change what is there of it.
_FREE = (*MEANS, "existing", "arms")
# Under this key of settings.json: path of a data file -> hex SHA-256.
_PINNED = "data_sha256"


class Workspace:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def marker(self) -> Path:
        return self.path / "settings.json"

    @property
    def begun(self) -> bool:
        """Whether a charter was signed; before that there is nothing that other settings could be mixed with."""
        return (self.server / "signatures.json").exists()

    @property
    def server(self) -> Path:
        return self.path / "server"

    @property
    def strategy(self) -> Path:
        return self.server / "strategy.py"

    @property
    def basis(self) -> Path:
        return self.path / "basis.safetensors"

    @property
    def rounds(self) -> Path:
        return self.server / "run"

    @property
    def nodes(self) -> Path:
        return self.path / "nodes"

    @property
    def pooled(self) -> Path:
        return self.path / "pooled"

    @property
    def arms(self) -> Path:
        return self.path / "arms"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def confusion(self) -> Path:
        return self.path / "confusion.png"

    @property
    def examples(self) -> Path:
        return self.path / "examples.md"

    @property
    def release(self) -> Path:
        return self.path / "release"

    @property
    def log(self) -> Path:
        return self.path / "run.log"

    def result(self, arm: str) -> dict[str, Any] | None:
        """What an arm's file says, or None where the arm has not finished."""
        file = self.arms / f"{arm}.json"
        found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
        return found

    def keep(self, arm: str, result: dict[str, Any]) -> None:
        """Write an arm's result."""
        self.arms.mkdir(exist_ok=True)
        write_text(self.arms / f"{arm}.json", json.dumps(result, indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder: each would delete what the other has in hand as left by a crash.

    The kernel lets go when the process ends, however it ends. A folder that is still empty at the end is removed.

    Raises:
        UserError: another process is in it, or it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as problem:
        raise _unusable(folder, problem) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mend = "wait until it ends, or set another run_dir"
            raise UserError(f"{folder}: another run is at work here", mend) from None
        except OSError as problem:  # a file system without locks
            raise _unusable(folder, problem) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()
    finally:
        os.close(descriptor)


def open_workspace(settings: Settings) -> Workspace:
    """The run's folder, as `simulation.existing` says: continued, emptied, or refused.

    Raises:
        UserError: the folder holds another run or something else, must not be touched, or the disk is nearly full; or
            a data file is no longer the one that the run began with.
    """
    space, pinned = Workspace(settings.run_dir), _digests(settings)
    try:
        if space.path.exists() and any(space.path.iterdir()):
            pinned = _meet(settings, space) | pinned
        free = shutil.disk_usage(_nearest(space.path)).free
        if free < SMALLEST_DISK:
            raise UserError(
                f"{settings.run_dir}: {free / 1e9:.1f} GB free, a run needs {SMALLEST_DISK / 1e9:.0f} GB",
                "free some space or set run_dir elsewhere",
            )
        space.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(space.marker, json.dumps(_dumped(settings) | {_PINNED: pinned}, indent=1))
    except OSError as problem:
        raise _unusable(settings.run_dir, problem) from None
    return space


def _unusable(folder: Path, problem: OSError) -> UserError:
    return UserError(
        f"{folder}: {problem.strerror}", "set run_dir to a folder that you may write, on a disk with file locks"
    )


def _dumped(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(settings.model_dump_json(by_alias=True))
    return found


def _digests(settings: Settings) -> dict[str, str]:
    """Of the data files by their paths; one that cannot be read is refused where it is needed."""
    data, found = settings.data, dict[str, str]()
    for file in (*data.files, data.test_file, data.validation_file, data.public_file):
        if file is not None:
            with contextlib.suppress(OSError):
                found[str(file)] = file_digest(file)
    return found


def _meet(settings: Settings, space: Workspace) -> dict[str, str]:
    """Continue, empty or refuse what lies in the folder; the digests of the data files that a run began with."""
    _require_ours(space)
    existing = settings.simulation.existing
    if existing == "refuse":
        raise UserError(
            f"{settings.run_dir}: holds a run already",
            "set simulation.existing=continue or fresh, or another run_dir",
        )
    if existing == "fresh":
        _empty(space.path)
    elif space.begun:
        return _require_same(settings, space.marker)
    return {}


def _empty(folder: Path) -> None:
    """The folder itself stays, since `alone_in` holds it."""
    for inside in folder.iterdir():
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside)
        else:
            inside.unlink()


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next((folder for folder in (path, *path.parents) if folder.exists()), path)


def _require_ours(space: Workspace) -> None:
    """Nothing is emptied or written into that a run did not write: settings.json is a common name, its keys are not."""
    try:
        known = json.loads(space.marker.read_text())
        ours = isinstance(known, dict) and set(known) >= {"run_dir", "rounds", "privacy", "secagg", "simulation"}
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise UserError(f"{space.path}: not empty, and not a run of cotune", "set another run_dir")


def _require_same(settings: Settings, marker: Path) -> dict[str, str]:
    """Continue only what was started: other settings or rows would mix two runs. The digests that it began with."""
    known = json.loads(marker.read_text())
    pinned: dict[str, str] = known.pop(_PINNED, {})
    again = "simulation.existing=fresh to start over, or another run_dir"
    different = first_difference(
        known, _dumped(settings), lambda place: place[0] == "simulation" and place[-1] in _FREE
    )
    if different:
        raise UserError(
            f"{settings.run_dir}: holds a run that was started with another value of {different}",
            f"set it as it was, or {again}",
        )
    for file, digest in _digests(settings).items():
        if digest != pinned.get(file, digest):
            raise UserError(
                f"{settings.run_dir}: holds a run that was started with other content of {file}",
                f"put the file back as it was, or {again}",
            )
    return pinned
