"""Skellam noise on a grid: a sum is rounded to integers and noised with integers, and the account is of those integers.

Agarwal, Kairouz and Liu 2021. A Skellam variable of variance mu is the difference of two Poisson variables of mean
mu / 2; P[X = k] = e^-mu I_k(mu). Sums of independent ones are Skellam with the sum of their variances, so shares of
many organizations add up to exactly the noise that is accounted, with no floating-point number in what is sent.

Rounding. One uniform U for each coordinate rounds the clipped sum f to floor(f / g + U), g being the grid's step. With
the same U, a unit of gradient v changes that by floor(V + v / g), where V, the fraction of f / g + U, is uniform
whatever the data: the change is v / g rounded at random by itself. Its norm is bounded as in Kairouz, Liu and Steinke
2021, theorem 1, but for a small chance, which is taken off delta. Nothing of the other units has to be rounded.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .keystream import Keystream

# Of one draw, in squared steps. Below the least nearly every draw is zero; above the most a draw has hundreds of parts,
# and no lane holds it.
LEAST_VARIANCE: Final = 2.0**-10
MOST_VARIANCE: Final = 2.0**44
MOST_COORDINATES: Final = 2**40
# Of one table: above it the table would be large.
_PART = 2.0**36
_FINEST = 2.0**-40
_EXPANDED = 1e4
_CHUNK = 65_536
_WORD = np.uint64


@dataclass(frozen=True)
class Grid:
    """The integers that stand for a vector.

    Attributes:
        step: g, a power of two, so that scaling by it is exact. dimension: of the vector.
        sensitivity: S, the L2 norm by which one unit moves the vector before rounding.

    Raises:
        ValueError: the step is no power of two from 2^-40 of the sensitivity up to it, or a number is out of range.
    """

    step: float
    dimension: int
    sensitivity: float

    def __post_init__(self) -> None:
        exact = math.isfinite(self.step) and self.step > 0 and math.frexp(self.step)[0] == 0.5
        fits = exact and _FINEST * self.sensitivity <= self.step <= self.sensitivity < math.inf
        if not (fits and 0 < self.dimension <= MOST_COORDINATES):
            raise ValueError(f"no grid: step {self.step}, dimension {self.dimension}, sensitivity {self.sensitivity}")

    def variance(self, multiplier: float) -> float:
        """mu of Skellam noise whose standard deviation is `multiplier` sensitivities; in squared steps."""
        deviation = multiplier * self.sensitivity / self.step
        # A power would overflow with an error.
        return deviation * deviation

    def norms(self, chance: float) -> tuple[float, float]:
        """The L2 and L1 norms, in steps, that one unit's change of the integers exceeds with at most this chance."""
        length, root = self.sensitivity / self.step, math.sqrt(self.dimension)
        longest = length + root
        if chance > 0:
            typical = length**2 + self.dimension / 4 + math.sqrt(2 * math.log(1 / chance)) * (length + root / 2)
            longest = min(math.sqrt(typical), longest)
        # Integers: |k| <= k^2.
        return longest, min(longest * root, longest**2)


def grid_for(sensitivity: float, dimension: int) -> Grid:
    """The coarsest grid whose rounding costs about a hundredth of the noise: g in (0.1, 0.2] S / sqrt(d)."""
    finest = 0.2 * sensitivity / math.sqrt(dimension)
    return Grid(2.0 ** math.floor(math.log2(finest)), dimension, sensitivity)


def on_grid(vector: NDArray[np.floating], step: float) -> NDArray[np.int64]:
    """The vector rounded at random to multiples of a step, in steps: int64, unbiased, exact in the last bit.

    Args:
        vector: finite. step: a power of two.

    Raises:
        ValueError: a number is not finite, or too large for exact steps.
    """
    scaled = np.asarray(vector, dtype=np.float64) / step
    if not (np.abs(scaled) < 2.0**52).all():
        raise ValueError("a number is not finite, or too large for the grid")
    below = np.floor(scaled)
    # The difference is exact; comparing it loses nothing that adding it to U would.
    up = Keystream().uniform(scaled.size).reshape(scaled.shape) < scaled - below
    return below.astype(np.int64) + up


def skellam(size: int, variance: float) -> NDArray[np.int64]:
    """Independent draws from the Skellam distribution, under a key that is new for every call.

    By inversion (Devroye 1986, section III.2): 63 bits of the stream choose the magnitude in a table of the
    distribution in units of 2^-63, one bit the sign. No draw takes another path than the others. The table ends at 8 to
    9 standard deviations; the tail that is missing has probability 2^-63, far below any delta in use. A large variance
    is drawn as a sum of equal parts, which is the same distribution.

    Args:
        size: how many, 0 or more. variance: mu, positive; at most 2^44.

    Returns:
        int64 [size].

    Raises:
        ValueError: a number is out of range.
    """
    if size < 0 or not 0 < variance <= MOST_VARIANCE:
        raise ValueError(f"cannot draw {size} numbers of variance {variance}")
    parts = math.ceil(variance / _PART)
    table, stream = _table(variance / parts), Keystream()
    draws = np.zeros(size, dtype=np.int64)
    for start in range(0, size, _CHUNK):
        chunk = draws[start : start + _CHUNK]
        for _ in range(parts):
            words = stream.words(len(chunk))
            magnitudes = np.searchsorted(table, words >> _WORD(1), side="right")
            signs = 1 - 2 * (words & _WORD(1)).astype(np.int64)
            chunk += magnitudes * signs
    return draws


@lru_cache(maxsize=4)
def _table(variance: float) -> NDArray[np.uint64]:
    """P[|X| <= k] 2^63 for k = 0, 1, ...; the last is 2^63."""
    masses = _masses(variance, math.ceil(10 * math.sqrt(variance)) + 80)
    units = np.rint(masses * 2.0**63 * np.where(np.arange(len(masses)), 2.0, 1.0)).astype(np.uint64)
    # What rounding and the last bits of the masses leave goes to the middle, where it weighs least.
    missing = 2**63 - int(units.sum(dtype=np.uint64))
    if abs(missing) > 2**63 * 1e-10:
        raise ArithmeticError("the masses of the noise do not add up to one")
    units[0] = int(units[0]) + missing
    return np.cumsum(units, dtype=np.uint64)


def _masses(variance: float, most: int) -> NDArray[np.float64]:
    """e^-mu I_k(mu) for k = 0 .. most, float64, relative error about 1e-13."""
    from scipy.special import ive

    orders = np.arange(most + 1, dtype=np.float64)
    if variance < _EXPANDED:
        return np.asarray(ive(orders, variance))
    # Debye's expansion (DLMF 10.41.3), which holds for every order where sqrt(k^2 + mu^2) is large; ive loses digits.
    width = np.hypot(orders, variance)
    slant = (orders / width) ** 2
    exponent = orders**2 / (width + variance) - orders * np.arcsinh(orders / variance)
    series = 1 + (3 - 5 * slant) / (24 * width) + (81 - 462 * slant + 385 * slant**2) / (1152 * width**2)
    return np.asarray(np.exp(exponent) / np.sqrt(2 * math.pi * width) * series)
