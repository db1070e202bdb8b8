"""The masked uploads of the last rounds, kept so that members can recompute the sums that they were told.

    uploads/0007/     one folder a round, as in rounds/; filled beside its place and renamed
        2.words       the masked upload of member 2, little-endian uint64 [8 + encoding.words], raw
        sum.words     the bare sum, the same shape

Only a committed round keeps them: what a failed attempt left is deleted, and so is what is older than the charter's
`audit_rounds`. A round takes (survivors + 1) times the size of an upload: 2.0 to 2.7 bytes a parameter each with lanes
of 16 to 21 bits.

An upload without its masks needs the key shares of a threshold of members, which they forgot. The window is short all
the same: what is deleted cannot be opened by keys that are broken later.
"""

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..atomic import put_folder, remove_folder, write_bytes
from ..errors import UserError
from ..secagg.control import CONTROL_WORDS
from ..secagg.masking import WORD, WORD_BYTES
from ..secagg.plan import Plan
from ..verify.kept import SUM, UPLOADS, WORDS

# What else a round writes: checkpoint and record.
_SPARE_BYTES = 16 << 20


class AuditWindow:
    """The server's side: fill a round's folder, keep it, forget the old ones.

    Args:
        run: the run directory. rounds: how many committed rounds are kept, 1 or more.
    """

    def __init__(self, run: Path, rounds: int) -> None:
        self._path, self._rounds = run / UPLOADS, rounds

    def begin(self, plan: Plan) -> None:
        """Make room for an attempt at a round.

        Raises:
            UserError: the disk has no room for the uploads of all members; nobody has trained yet.
        """
        shutil.rmtree(self._beside(plan.round), ignore_errors=True)
        self._path.mkdir(mode=0o700, exist_ok=True)
        need = (len(plan.cohort) + 1) * (CONTROL_WORDS + plan.encoding.words) * WORD_BYTES + _SPARE_BYTES
        free = shutil.disk_usage(self._path).free
        if free < need:
            raise UserError(
                f"{self._path}: {free >> 20} MB free, but the uploads of a round may take {-(-need >> 20)} MB",
                "free disk space; the charter's secagg.audit_rounds says for how many rounds they are kept",
            )
        self._beside(plan.round).mkdir(mode=0o700)

    def add(self, number: int, name: int | str, words: NDArray[np.uint64]) -> None:
        """Keep one vector of the attempt in progress, by member's index or as SUM.

        Args:
            words: little-endian uint64 [w], contiguous.

        Raises:
            UserError: the disk is full or not writable.
        """
        file = self._beside(number) / f"{name}{WORDS}"
        try:
            write_bytes(file, words.data.cast("B"), 0o600)  # type: ignore[arg-type]
        except OSError as problem:
            mend = "free disk space" if problem.errno == errno.ENOSPC else "make it writable"
            raise UserError(f"{file}: {problem.strerror}", f"{mend}, then start again to continue") from problem

    def words(self, number: int, name: int) -> NDArray[np.uint64]:
        """An upload of the attempt in progress, read from its file."""
        return np.fromfile(self._beside(number) / f"{name}{WORDS}", dtype=WORD)

    def keep(self, number: int, total: NDArray[np.uint64]) -> None:
        """Put the bare sum beside the uploads and the folder in its place: it is there whole, or not at all.

        Call it before the round is committed, so that no committed round lacks what its members were promised.
        """
        self.add(number, SUM, total)
        put_folder(self._beside(number), self._path / f"{number:04d}")

    def forget(self, committed: Iterable[int]) -> None:
        """Delete all but the last rounds among those committed, and whatever an attempt or a crash left.

        Args:
            committed: rounds that have a record.
        """
        if not self._path.is_dir():
            return
        kept = {f"{number:04d}" for number in sorted(committed)[-self._rounds :]}
        for folder in self._path.iterdir():
            if folder.is_dir() and folder.name not in kept:
                remove_folder(folder)

    def _beside(self, number: int) -> Path:
        return self._path / f".{number:04d}"
