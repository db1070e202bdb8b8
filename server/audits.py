"""Recompute chunks of a round's sum from what an audit window kept. Reads only; needs no key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..secagg import merkle
from ..secagg.audit import Chunk, audit_chunk
from ..secagg.control import CONTROL_WORDS
from ..secagg.masking import CHUNK_WORDS
from ..secagg.record import Verified
from ..secagg.refused import Refused
from .audit_window import SUM, kept_words


@dataclass(frozen=True)
class AuditedChunk:
    """One chunk: its number, how many words it has, and why it does not hold (None: it does)."""

    number: int
    words: int
    fault: Refused | None


def chunks_of(verified: Verified) -> int:
    """How many chunks the vectors of a round have."""
    return merkle.chunks(CONTROL_WORDS + verified.plan.encoding.words)


def audit(run: Path, verified: Verified, numbers: Sequence[int]) -> Iterator[AuditedChunk]:
    """Recompute chunks of a round, in the order given.

    The paths to the signed roots are computed from the kept files, which are read whole once. So an upload or a sum
    that was changed anywhere is a fault of every chunk; a recorded sum that is false is one of the chunks it is false
    in.

    Args:
        run: the run directory. verified: the round's record. numbers: below `chunks_of`.

    Raises:
        UserError: a kept file cannot be read.
    """
    kept = {index: _Vector.of(run, verified, index) for index in verified.survivors}
    uploads = {index: vector for index, vector in kept.items() if vector is not None}
    total = _Vector.of(run, verified, SUM)
    size = CONTROL_WORDS + verified.plan.encoding.words
    for number in numbers:
        cut = {index: vector.chunk(number) for index, vector in uploads.items()}
        result = Chunk(np.zeros(0, dtype=np.uint64), ()) if total is None else total.chunk(number)
        fault = None
        try:
            audit_chunk(verified, number, cut, result)
        except Refused as no:
            fault = no
        yield AuditedChunk(number, min(CHUNK_WORDS, size - number * CHUNK_WORDS), fault)


@dataclass(frozen=True)
class _Vector:
    """A kept vector and the paths of all its chunks."""

    words: NDArray[np.uint64]
    paths: Sequence[tuple[bytes, ...]]

    @classmethod
    def of(cls, run: Path, verified: Verified, name: int | str) -> "_Vector | None":
        words = kept_words(run, verified.plan.round, name)
        if words is None:
            return None
        index = name if isinstance(name, int) else merkle.SUM
        return cls(words, merkle.paths(merkle.chunk_leaves(words, verified.ctx2, index)) if len(words) else ())

    def chunk(self, number: int) -> Chunk:
        """As `audit.chunk_of`, with the paths at hand; empty where the file is too short."""
        path = self.paths[number] if number < len(self.paths) else ()
        return Chunk(self.words[number * CHUNK_WORDS :][:CHUNK_WORDS], path)
