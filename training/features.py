"""Hidden states below the first trained layer, computed once: those layers are frozen and no dropout is active.

On a CPU this is most of the forward pass. What all rows begin with is computed and stored once for all of them. The
states live in a folder, readable by its owner only (they are derived from private records and can be inverted), and are
mapped into memory rather than loaded.
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
from .prefix import PrefixedStates, prefixed_states, shared_length


class Features:
    """The cached hidden states of a data set.

    Attributes:
        path: the file, float32 [n, hidden]: the shared prefix, then each row's own tokens but its last.
        prefix: tokens of the shared prefix; 0 where there is none.
    """

    def __init__(self, path: Path, lengths: Sequence[int], prefix: int, dtype: torch.dtype) -> None:
        self.path = path
        self.prefix = prefix
        self._states: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
        self._starts = _starts(lengths, prefix)
        self._dtype = dtype

    def padded(self, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """Hidden states [B, T, hidden] of the rows, zero where padded."""
        spans = [(int(self._starts[row]), int(self._starts[row + 1])) for row in rows]
        prefix, width = self.prefix, max(end - start for start, end in spans)
        padded = np.zeros((len(rows), prefix + width, self._states.shape[1]), dtype=np.float32)
        padded[:, :prefix] = self._states[:prefix]
        for row, (start, end) in enumerate(spans):
            padded[row, prefix : prefix + end - start] = self._states[start:end]
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
        A file is found again only for the same base, the same tokens, the same layer and number format, and only if its
        bytes are those that were written; else it is computed again.
    """
    lengths = [len(example.tokens) for example in examples]
    inputs = [example.tokens[:-1] for example in examples]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Without the prefix where the family cannot do with it: known only once the states are computed.
    for prefix in sorted({shared_length(inputs), 0}, reverse=True):
        path = folder / f"states-{_key(below, examples, base_digest, prefix)[:32]}.npy"
        if _is_whole(path, int(_starts(lengths, prefix)[-1])):
            return Features(path, lengths, prefix, below.dtype)
    ends = [examples[min(range(len(lengths)), key=lengths.__getitem__)], examples[int(np.argmax(lengths))]]
    states = prefixed_states(below, inputs, lambda way: way(collate(ends, below.device).inputs))
    path = folder / f"states-{_key(below, examples, base_digest, states.length)[:32]}.npy"
    _compute(path, states, examples, lengths, most_tokens, progress)
    return Features(path, lengths, states.length, below.dtype)


def _starts(lengths: Sequence[int], prefix: int) -> NDArray[np.int64]:
    """Where each row's own tokens start in the file, and the file's length at the end: int64 [rows + 1]."""
    return np.cumsum([prefix, *(length - 1 - prefix for length in lengths)], dtype=np.int64)


def _key(below: StatesBelow, examples: Sequence[Row], base_digest: str, prefix: int) -> str:
    facts = [base_digest, below.layer, str(below.dtype), len(examples), prefix]
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


def _compute(
    path: Path,
    below: PrefixedStates,
    examples: Sequence[Row],
    lengths: Sequence[int],
    most_tokens: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write beside, then rename: a killed process leaves no file under the final name."""
    starts, prefix, device = _starts(lengths, below.length), below.length, below.below.device
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "r+b") as file:
            shape = (int(starts[-1]), below.below.hidden_size)
            np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            offset = file.tell()
            file.truncate(offset + 4 * shape[0] * shape[1])
            states = np.memmap(file, dtype="<f4", mode="r+", offset=offset, shape=shape)
            states[:prefix] = below.states.float().cpu().numpy()
            done = 0
            for batch in pack([[row] for row in range(len(examples))], lengths, most_tokens, most_rows=4096):
                hidden = below.own(collate([examples[row] for row in batch], device).inputs).float().cpu().numpy()
                for place, row in enumerate(batch):
                    states[starts[row] : starts[row + 1]] = hidden[place, : lengths[row] - 1 - prefix]
                done += len(batch)
                if progress is not None:
                    progress(done, len(examples))
            states.flush()
            os.fsync(file.fileno())
        checksum = _checksum(beside)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    # Last: states without their checksum do not count as whole.
    atomic.write_text(_checksum_file(path), checksum, 0o600)
