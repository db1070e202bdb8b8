"""Hidden states below the first trained layer, computed once: those layers are frozen and no dropout is active.

On a CPU this is most of the forward pass. The states live in a folder, readable by its owner only (they are derived
from private records and can be inverted), and are mapped into memory rather than loaded.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .. import atomic
from .batches import Row, collate, pack
from .forward import StatesBelow


class Features:
    """The cached hidden states of a data set.

    Attributes:
        path: the file, float32 [tokens of all rows but each row's last, hidden].
    """

    def __init__(self, path: Path, states: NDArray[np.float32], lengths: Sequence[int], dtype: torch.dtype) -> None:
        self.path = path
        self._states = states
        self._starts = np.concatenate([[0], np.cumsum([length - 1 for length in lengths])])
        self._dtype = dtype

    def padded(self, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """Hidden states [B, T, hidden] of the rows, zero where padded."""
        spans = [(int(self._starts[row]), int(self._starts[row + 1])) for row in rows]
        width = max(end - start for start, end in spans)
        padded = np.zeros((len(rows), width, self._states.shape[1]), dtype=np.float32)
        for row, (start, end) in enumerate(spans):
            padded[row, : end - start] = self._states[start:end]
        return torch.from_numpy(padded).to(device=device, dtype=self._dtype)


def cache_features(
    folder: Path,
    below: StatesBelow,
    examples: Sequence[Row],
    base_digest: str,
    most_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Compute the hidden states of a data set, or find them where they were computed before.

    Args:
        folder: where the files live; made 0700 if missing.
        below: the frozen layers.
        examples: the data set.
        base_digest: of the base model.
        most_tokens: padded tokens in one forward pass.
        progress: called with (rows done, rows in all).

    Guarantees:
        A file is found again only for the same base, the same tokens, the same layer and number format, and only if it
        was written whole.
    """
    lengths = [len(example.tokens) for example in examples]
    key = _key(below, examples, base_digest)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"states-{key[:32]}.npy"
    if not _is_whole(path, sum(lengths) - len(lengths)):
        _compute(path, below, examples, lengths, most_tokens, progress)
    states = np.load(path, mmap_mode="r", allow_pickle=False)
    return Features(path, states, lengths, below.dtype)


def _key(below: StatesBelow, examples: Sequence[Row], base_digest: str) -> str:
    content = hashlib.sha256(json.dumps([base_digest, below.layer, str(below.dtype), len(examples)]).encode())
    for example in examples:
        content.update(len(example.tokens).to_bytes(8, "little"))
        content.update(np.ascontiguousarray(example.tokens, dtype="<i4").tobytes())
    return content.hexdigest()


def _is_whole(path: Path, tokens: int) -> bool:
    try:
        states = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return False
    return states.ndim == 2 and len(states) == tokens and states.dtype == np.float32


def _compute(
    path: Path,
    below: StatesBelow,
    examples: Sequence[Row],
    lengths: Sequence[int],
    most_tokens: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write beside, then rename: a killed process leaves no file under the final name."""
    starts = np.concatenate([[0], np.cumsum([length - 1 for length in lengths])]).astype(int)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "r+b") as file:
            shape = (int(starts[-1]), below.hidden_size)
            np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            offset = file.tell()
            file.truncate(offset + 4 * shape[0] * shape[1])
            states = np.memmap(file, dtype="<f4", mode="r+", offset=offset, shape=shape)
            done = 0
            for batch in pack([[row] for row in range(len(examples))], lengths, most_tokens, most_rows=4096):
                hidden = below(collate([examples[row] for row in batch], below.device).inputs).float().cpu().numpy()
                for place, row in enumerate(batch):
                    states[starts[row] : starts[row + 1]] = hidden[place, : lengths[row] - 1]
                done += len(batch)
                if progress is not None:
                    progress(done, len(examples))
            states.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    atomic.sync_folder(path.parent)
