"""How long a vector that an honest member sends can be, piece by piece, and the same for a sum.

A member's update has at most a norm that the charter sets, and noise on it whose norm hardly exceeds its mean: of k
standard normal numbers it is above sqrt(k) + a with a chance of at most exp(-a^2 / 2), since the norm is a Lipschitz
function of them with constant 1 (Boucheron, Lugosi, Massart, Concentration Inequalities, 2013, theorem 5.6) whose mean
is at most sqrt(k). A piece of the encoded vector holds k coordinates of it, and has both bounds together.

The limit of a sum is the sum of the limits of those in it. So a piece of a sum that is beyond its limit always holds a
member that is beyond its own: norms of a sum are at most the sum of the norms.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from . import merkle
from .control import CONTROL_WORDS
from .encoding import Encoding
from .merkle import PIECE_WORDS
from .refused import about, require

# A piece of honest noise is beyond its limit with a chance below exp(-32) = 1.3e-14.
TAIL = 8.0
# Floats that are added in different orders: a sum must never be beyond its limit where no member is.
_SLACK = 1 + 1e-9


@dataclass(frozen=True)
class NormLimits:
    """The limits of a federation.

    Attributes:
        base: of each member, the largest L2 norm of its update before noise, in the unit of the vector.
        spread: the standard deviation of each coordinate of a member's noise, in the same unit; normal noise.
        coordinates: the limits are about so many coordinates at the front of the vector (the adapter); what stands
            behind them (metrics) is bounded by the range of its lanes alone.
    """

    base: tuple[float, ...]
    spread: float
    coordinates: int

    def of_member(self, index: int, k: int, step: float) -> float:
        """The largest L2 norm of k coordinates of what a member sends, in the unit of the vector.

        Args:
            step: of the encoding, see `Encoding.step_within`: rounding moves each coordinate by less than that.
        """
        return self.base[index] + self.spread * (sqrt(k) + TAIL) + step * sqrt(k)

    def of_sum(self, members: Iterable[int], k: int, step: float) -> float:
        """The same for the sum of some members' vectors."""
        return _SLACK * sum(self.of_member(index, k, step) for index in members)


def check_norms(encoding: Encoding, words: NDArray[np.uint64], survivors: tuple[int, ...], limits: NormLimits) -> None:
    """Refuse a sum that no honest members can have made.

    Args:
        words: the bare sum, uint64 [8 + encoding.words]. survivors: whose vectors are in it.

    Raises:
        Refused: "sum.norm" with the piece, the one most beyond its limit; "sum.range".
    """
    check_values(encoding, encoding.decode(words[CONTROL_WORDS:], len(survivors)), survivors, limits)


def check_values(
    encoding: Encoding, values: NDArray[np.float64], survivors: tuple[int, ...], limits: NormLimits
) -> None:
    """`check_norms` of a sum that is decoded: float64 [dimension], in the unit of the vectors."""
    step = encoding.step_within(limits.coordinates)
    worst, most = 0, 0.0
    for number in range(merkle.pieces(CONTROL_WORDS + encoding.words)):
        squares, k = 0.0, 0
        for first, last in _runs(encoding, number, limits.coordinates):
            squares, k = squares + float(values[first:last] @ values[first:last]), k + last - first
        excess = sqrt(squares) / limits.of_sum(survivors, k, step) if k else 0.0
        worst, most = (number, excess) if excess > most else (worst, most)
    with about(worst):
        require(most <= 1, "sum.norm", f"piece {worst} of the sum is {most:.4g} times as long as it can be")


def check_piece(
    encoding: Encoding, words: NDArray[np.uint64], number: int, members: tuple[int, ...], limits: NormLimits
) -> None:
    """The same for one piece alone, of a sum or of one member's upload without its masks.

    Args:
        words: uint64 [at most PIECE_WORDS], piece `number`. members: whose vectors are in it.

    Raises:
        Refused: "sum.norm", "sum.range".
    """
    start = max(CONTROL_WORDS, number * PIECE_WORDS)
    parts = encoding.decode_part(words[start - number * PIECE_WORDS :], start - CONTROL_WORDS, len(members))
    runs = [values[: max(0, limits.coordinates - first)] for first, values in parts]
    norm, k = sqrt(sum(float(run @ run) for run in runs)), sum(map(len, runs))
    step = encoding.step_within(limits.coordinates)
    limit = limits.of_sum(members, k, step) if len(members) > 1 else limits.of_member(members[0], k, step)
    require(not k or norm <= limit, "sum.norm", f"piece {number} is longer than it can be")


def _runs(encoding: Encoding, number: int, coordinates: int) -> Iterator[tuple[int, int]]:
    """The coordinates [first, last) that a piece holds in each lane, of the first so many."""
    start, stop = (at - CONTROL_WORDS for at in (number * PIECE_WORDS, (number + 1) * PIECE_WORDS))
    for first, last in encoding.runs(max(0, start), min(encoding.words, stop)):
        yield min(first, coordinates), min(last, coordinates)
