"""What lies below a cut, computed once for a data set: it is frozen and no dropout is active.

On a CPU this is most of the forward pass. A row's states are functions of that row alone, bit for bit, as everything
that its gradient is made of: see `blocks`. The states live in a folder, readable by its owner only (they are derived
from private records and can be inverted), and are mapped into memory rather than loaded.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from .. import atomic
from ..digest import file_digest
from .blocks import BLOCK, Blocks, BlockStates, blocks_of, known_form
from .cuts import Cut
from .tiles import LENGTH_STEP, Row, Shape

_FORM: Final = 5
"""Of the files and of how states are computed: older ones are not found again."""


class Features:
    """The cached states of a data set.

    Attributes:
        path: the file, float32 [n, width].
        rows: int64 [k] for each row: where its states lie, in the order of its positions.
        size: tokens of the blocks that they were computed in.
    """

    def __init__(self, path: Path, rows: Sequence[NDArray[np.int64]], dtype: torch.dtype, size: int) -> None:
        self.path = path
        self.rows = rows
        self.size = size
        self._states: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
        self._dtype = dtype

    def of(self, row: int) -> NDArray[np.float32]:
        """The states of one row, float32 [k, width]."""
        return self._states[self.rows[row]]

    def tile(self, rows: Sequence[int], shape: Shape, device: torch.device) -> torch.Tensor:
        """States [B, T, width] of the rows, [B, S, width] where only answers are kept.

        Zero where padded and in places without a row.
        """
        padded = torch.zeros(shape.rows, shape.positions or shape.slots, self._states.shape[1])
        array = padded.numpy()  # what torch allocates is aligned
        for place, row in enumerate(rows):
            array[place, : len(self.rows[row])] = self.of(row)
        return padded.to(device=device, dtype=self._dtype)


@dataclass(frozen=True, eq=False)
class _Kept:
    """Which states are kept.

    Attributes:
        offsets: of each block, the places of its kept tokens. starts: where they begin in the file.
        rows: see `Features`.
    """

    offsets: Sequence[NDArray[np.int64]]
    starts: Sequence[int]
    rows: Sequence[NDArray[np.int64]]

    @property
    def count(self) -> int:
        return self.starts[-1]


def _kept(blocks: Blocks, wanted: Sequence[range]) -> _Kept:
    """What is kept of blocks so that every row has the states of its wanted positions."""
    marks = [np.zeros(len(block.tokens), dtype=np.bool_) for block in blocks.every]
    parts = [
        [(number, slice(max(0, places.start - block.first), max(0, places.stop - block.first)))
         for number in chain for block in (blocks.every[number],)]
        for chain, places in zip(blocks.rows, wanted, strict=True)
    ]  # fmt: skip
    for number, where in (part for row in parts for part in row):
        marks[number][where] = True
    starts = np.cumsum([0, *(int(mark.sum()) for mark in marks)]).tolist()
    found = [start + np.cumsum(mark) - 1 for start, mark in zip(starts, marks, strict=False)]
    rows = [np.concatenate([found[number][where] for number, where in row]) for row in parts]
    return _Kept([np.flatnonzero(mark) for mark in marks], starts, rows)


def cache_features(
    folder: Path,
    cut: Cut,
    examples: Sequence[Row],
    base_digest: str,
    context: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Compute what the lower side of a cut gives of a data set, or find it where it was computed before.

    Args:
        folder: where the files live; made 0700 if missing.
        cut: where the model is cut; of rows that pass through it as answers only, no other position is kept.
        examples: the data set.
        base_digest: of the base model.
        context: the most positions that the model has, or None.
        progress: called with (tokens done, tokens in all).

    Guarantees:
        A file is found again only for the same base, the same tokens, the same layer and number format, and only if its
        bytes are those that were written; else it is computed again, in blocks that were found sound in this process.
        No row changes a bit of another row's states.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for unfinished in folder.glob(".states-*"):
        unfinished.unlink()  # of a process that was killed: a home has one at a time
    path, width = _path(folder, cut, examples, base_digest), sum(cut.below.widths)
    size = _size_of(path)
    if size is not None:
        _, kept = _laid_out(examples, cut, size)
        if _has_shape(path, (kept.count, width)):
            return Features(path, kept.rows, cut.below.dtype, size)
    form = known_form(cut.below, LENGTH_STEP, context)
    states_of = BlockStates(cut.below, form, LENGTH_STEP, context)
    blocks, kept = _laid_out(examples, cut, form.size)
    _write(path, (kept.count, width), form.size, lambda states: _fill(states, states_of, blocks, kept, progress))
    return Features(path, kept.rows, cut.below.dtype, form.size)


def hand_on(
    known: Features, places: Sequence[int], folder: Path, cut: Cut, examples: Sequence[Row], base_digest: str
) -> None:
    """Give a data set the file that `cache_features` would compute, from that of a larger one which holds its rows.

    A row's states follow from that row alone, so they are the same bits in both.

    Args:
        known: the larger one's.
        places: where in it each of the examples is.
        folder: as in `cache_features`, and so are the others.
        cut: the same one.
        examples: of the smaller data set.
        base_digest: the same one.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = _path(folder, cut, examples, base_digest)
    if _size_of(path) is not None:
        return
    _, kept = _laid_out(examples, cut, known.size)

    def fill(states: NDArray[np.float32]) -> None:
        for place, rows in zip(places, kept.rows, strict=True):
            states[rows] = known.of(place)

    _write(path, (kept.count, sum(cut.below.widths)), known.size, fill)


def _laid_out(examples: Sequence[Row], cut: Cut, size: int) -> tuple[Blocks, _Kept]:
    """The blocks of a data set, of `size` tokens, and what is kept of them."""
    blocks = blocks_of([example.tokens[:-1] for example in examples], size)
    return blocks, _kept(
        blocks,
        [range(example.answer_start - 1 if cut.answers_only else 0, len(example.tokens) - 1) for example in examples],
    )


def _path(folder: Path, cut: Cut, examples: Sequence[Row], base_digest: str) -> Path:
    below = cut.below
    facts = [_FORM, base_digest, below.layer, below.widths, str(below.dtype), len(examples)]
    content = hashlib.sha256(json.dumps(facts).encode())
    for example in examples:
        content.update(len(example.tokens).to_bytes(8, "little"))
        content.update((example.answer_start if cut.answers_only else 0).to_bytes(8, "little"))
        content.update(np.ascontiguousarray(example.tokens, dtype="<i4").tobytes())
    return folder / f"states-{content.hexdigest()[:32]}.npy"


def _size_of(path: Path) -> int | None:
    """Tokens of a block that the states were computed in; None where the file is not, or not as it was written."""
    try:
        facts = json.loads(_facts_file(path).read_text())
        whole = facts["block"] in (0, BLOCK) and facts["sha256"] == file_digest(path)
        return int(facts["block"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _has_shape(path: Path, shape: tuple[int, int]) -> bool:
    try:
        states = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return False
    return bool(states.shape == shape and states.dtype == np.float32)


def _facts_file(path: Path) -> Path:
    return path.with_suffix(".json")


def _fill(
    states: NDArray[np.float32],
    states_of: BlockStates,
    blocks: Blocks,
    kept: _Kept,
    progress: Callable[[int, int], None] | None,
) -> None:
    done, of = 0, blocks.tokens
    for number, found in states_of.of(blocks):
        offsets = kept.offsets[number]
        states[kept.starts[number] :][: len(offsets)] = found.float().cpu().numpy()[offsets]
        done += len(found)
        if progress is not None:
            progress(done, of)


def _write(path: Path, shape: tuple[int, int], size: int, fill: Callable[[NDArray[np.float32]], None]) -> None:
    with atomic.replacing(path, 0o600) as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        offset = file.tell()
        file.truncate(offset + 4 * shape[0] * shape[1])
        states = np.memmap(file, dtype="<f4", mode="r+", offset=offset, shape=shape)
        fill(states)
        states.flush()
    # Last: states without their checksum do not count as whole.
    atomic.write_text(_facts_file(path), json.dumps({"sha256": file_digest(path), "block": size}) + "\n", 0o600)
