"""What a coordinator's run directory keeps for others to check: records of rounds, and the masked uploads of the last.

Reads only. The server writes it: `server.run_directory`, `server.audit_window`.
"""

import json
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..secagg.masking import WORD, WORD_BYTES

RECORD: Final = "record.bin"
UPLOADS: Final = "uploads"
WORDS: Final = ".words"
SUM: Final = "sum"


def numbered(folder: Path) -> list[int]:
    """The rounds that have a folder of their own in `folder`, ascending; whatever else lies there is passed over."""
    digits = [int(found.name) for found in folder.iterdir() if found.name.isascii() and found.name.isdigit()]
    return sorted(number for number in digits if (folder / f"{number:04d}").is_dir())


def read_records(path: Path, charter_digest: str) -> list[bytes]:
    """The records of a run directory, oldest first. Nothing is created or changed.

    Raises:
        UserError: it is no run directory, one of another charter, or cannot be read.
    """
    mend = "give the folder that holds run.json and rounds/"
    try:
        known = json.loads((path / "run.json").read_bytes())["charter"]
        folders = [path / "rounds" / f"{number:04d}" for number in numbered(path / "rounds")]
        records = [(folder / RECORD).read_bytes() for folder in folders if (folder / RECORD).exists()]
    except OSError as problem:
        raise UserError(f"{path}: not a run directory, {problem.filename}: {problem.strerror}", mend) from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: not a run directory, its run.json cannot be read", mend) from None
    if known != charter_digest:
        raise UserError(f"{path}: holds a run of another charter", "give the charter that this run was made under")
    return records


def kept_rounds(run: Path) -> list[int]:
    """The rounds whose uploads a run directory holds, ascending."""
    folder = run / UPLOADS
    return numbered(folder) if folder.is_dir() else []


def kept_words(run: Path, number: int, name: int | str) -> NDArray[np.uint64] | None:
    """One kept vector, mapped from its file and read-only; None where there is no such file.

    Args:
        name: a member's index, or SUM.

    Raises:
        UserError: it cannot be read.
    """
    file = run / UPLOADS / f"{number:04d}" / f"{name}{WORDS}"
    try:
        size = file.stat().st_size
        if not size or size % WORD_BYTES:
            return np.zeros(0, dtype=WORD)
        return np.asarray(np.memmap(file, dtype=WORD, mode="r"))
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise UserError(f"{file}: {problem.strerror}", "give the path of a run that you may read") from problem
