"""A part of the adapter: the coordinates of its flat vector that are trained in one round. NumPy only."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .schema import AdapterSchema

Numbers = TypeVar("Numbers", bound=np.generic)


@dataclass(frozen=True)
class Part:
    """Some coordinates of the flat adapter.

    Attributes:
        runs: (first, behind the last) of each run of coordinates, ascending; no two of them touch.
        turn: where a strategy trains several parts by turns: which of them this is, from 0.

    Raises:
        ValueError: there is no run, or they are empty, overlap, touch, or are out of order.
    """

    runs: tuple[tuple[int, int], ...]
    turn: int = 0

    def __post_init__(self) -> None:
        ends = [-1, *(end for run in self.runs for end in run)]
        if len(ends) == 1 or any(one >= other for one, other in pairwise(ends)):
            raise ValueError(f"a part of the runs {self.runs[:3]}")

    @property
    def size(self) -> int:
        """How many coordinates."""
        return sum(stop - start for start, stop in self.runs)

    def of(self, vector: NDArray[Numbers]) -> NDArray[Numbers]:
        """Its coordinates [k] of a vector [d]; a view where the part is one run."""
        found = [vector[start:stop] for start, stop in self.runs]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def put(self, vector: NDArray[Numbers], values: NDArray[Any]) -> NDArray[Numbers]:
        """A copy of a vector [d] that has these values [k] in the part; they take the vector's type."""
        if values.shape != (self.size,):
            raise ValueError(f"values of {values.shape} for a part of {self.size}")
        changed, done = vector.copy(), 0
        for start, stop in self.runs:
            changed[start:stop] = values[done : done + stop - start]
            done += stop - start
        return changed


def whole(schema: AdapterSchema) -> Part:
    """All coordinates."""
    return Part(((0, schema.dimension),))


def side(schema: AdapterSchema, which: Literal["A", "B"], turn: int = 0) -> Part:
    """The coordinates of all lora_A, or of all lora_B.

    Raises:
        UserError: the adapter has none.
    """
    runs: list[tuple[int, int]] = []
    for name, where in zip(schema.names, schema.slices, strict=True):
        if not name.endswith(f".lora_{which}.weight"):
            continue
        if runs and runs[-1][1] == where.start:
            runs[-1] = (runs[-1][0], where.stop)
        else:
            runs.append((where.start, where.stop))
    if not runs:
        raise UserError(f"this adapter trains no lora_{which}", "choose strategy=dp_fedsgd, or plain LoRA")
    return Part(tuple(runs), turn)
