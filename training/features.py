"""Hidden states below the first trained layer, computed once: those layers are frozen and no dropout is active.

On a CPU this is most of the forward pass. A row's states are functions of that row alone, bit for bit, as everything
that its gradient is made of: see `blocks`. The states live in a folder, readable by its owner only (they are derived
from private records and can be inverted), and are mapped into memory rather than loaded.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from .. import atomic
from .blocks import Blocks, BlockStates, Form, blocks_of, sound_form
from .forward import StatesBelow
from .tiles import LENGTH_STEP, Row, Shape

_FORM: Final = 3
"""Of the files and of how states are computed: older ones are not found again."""


class Features:
    """The cached hidden states of a data set.

    Attributes:
        path: the file, float32 [n, hidden]: the states of each block.
        blocks: which of them make which row.
    """

    def __init__(self, path: Path, blocks: Blocks, dtype: torch.dtype) -> None:
        self.path = path
        self.blocks = blocks
        self._states: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
        self._dtype = dtype

    def tile(self, rows: Sequence[int], shape: Shape, device: torch.device) -> torch.Tensor:
        """Hidden states [B, T, hidden] of the rows, zero where padded and in places without a row."""
        padded = torch.zeros(shape.rows, shape.positions, self._states.shape[1])
        array = padded.numpy()  # what torch allocates is aligned
        for place, row in enumerate(rows):
            for number in self.blocks.rows[row]:
                block = self.blocks.every[number]
                count = len(block.tokens)
                array[place, block.first : block.first + count] = self._states[block.start : block.start + count]
        return padded.to(device=device, dtype=self._dtype)


def cache_features(
    folder: Path,
    below: StatesBelow,
    examples: Sequence[Row],
    base_digest: str,
    context: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Compute the hidden states of a data set, or find them where they were computed before.

    Args:
        folder: where the files live; made 0700 if missing.
        below: the frozen layers.
        examples: the data set.
        base_digest: of the base model.
        context: the most positions that the model has, or None.
        progress: called with (tokens done, tokens in all).

    Guarantees:
        A file is found again only for the same base, the same tokens, the same layer and number format, and only if its
        bytes are those that were written; else it is computed again. No row changes a bit of another row's states.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for unfinished in folder.glob(".states-*"):
        unfinished.unlink()  # of a process that was killed: a home has one at a time
    form = sound_form(below, LENGTH_STEP, context)
    blocks = blocks_of([example.tokens[:-1] for example in examples], form.size)
    path = folder / f"states-{_key(below, examples, base_digest, form)[:32]}.npy"
    if not _is_whole(path, blocks.tokens):
        _compute(path, BlockStates(below, form, LENGTH_STEP, context), blocks, progress)
    return Features(path, blocks, below.dtype)


def _key(below: StatesBelow, examples: Sequence[Row], base_digest: str, form: Form) -> str:
    facts = [_FORM, base_digest, below.layer, str(below.dtype), len(examples), form.size, form.places]
    content = hashlib.sha256(json.dumps(facts).encode())
    for example in examples:
        content.update(len(example.tokens).to_bytes(8, "little"))
        content.update(np.ascontiguousarray(example.tokens, dtype="<i4").tobytes())
    return content.hexdigest()


def _is_whole(path: Path, tokens: int) -> bool:
    try:
        if _checksum_file(path).read_text() != _checksum(path):
            return False
        states = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return False
    return states.ndim == 2 and len(states) == tokens and states.dtype == np.float32


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _compute(path: Path, states_of: BlockStates, blocks: Blocks, progress: Callable[[int, int], None] | None) -> None:
    """Write beside, then rename: a killed process leaves no file under the final name."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "r+b") as file:
            shape = (blocks.tokens, states_of.below.hidden_size)
            np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            offset = file.tell()
            file.truncate(offset + 4 * shape[0] * shape[1])
            states = np.memmap(file, dtype="<f4", mode="r+", offset=offset, shape=shape)
            done = 0
            for number, found in states_of.of(blocks):
                start = blocks.every[number].start
                states[start : start + len(found)] = found.float().cpu().numpy()
                done += len(found)
                if progress is not None:
                    progress(done, blocks.tokens)
            states.flush()
            os.fsync(file.fileno())
        checksum = _checksum(beside)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    # Last: states without their checksum do not count as whole.
    atomic.write_text(_checksum_file(path), checksum, 0o600)
