"""Is there enough memory and disk: asked before loading, so that the answer is a sentence and not a killed process."""

import shutil
from pathlib import Path

import torch

from ..errors import UserError

# Beside the weights: Python, libraries, activations of a small batch.
_OVERHEAD = 400 * 2**20


def require_memory(weights: int, device: torch.device, name: str) -> None:
    """Refuse to load `weights` bytes where they do not fit.

    Raises:
        UserError: less memory is free than the weights and some overhead take.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    if free is not None and free < weights + _OVERHEAD:
        raise UserError(
            f"{name} needs {_gigabytes(weights + _OVERHEAD)} of memory on {device.type}, {_gigabytes(free)} are free",
            "stop other programs, choose dtype bfloat16 or a smaller model",
        )


def require_disk(size: int, folder: Path, name: str) -> None:
    """Refuse to write `size` bytes where they do not fit.

    Raises:
        UserError: less is free on the folder's disk.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{name} needs {_gigabytes(size)} in {folder}, {_gigabytes(free)} are free",
            "free some space or choose another cache folder",
        )


def _free_memory() -> int | None:
    """Bytes that this process may still take: of the machine and of its control group. None where unknown."""
    limits = [_machine_memory(), _group_memory(Path("/sys/fs/cgroup"))]
    return min((limit for limit in limits if limit is not None), default=None)


def _machine_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _group_memory(group: Path) -> int | None:
    """Version 2 control groups count the page cache as used, but can drop its inactive part."""
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(counts["inactive_file"])
    except (OSError, ValueError, KeyError):
        return None


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
