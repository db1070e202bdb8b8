"""Who joins a step: Poisson sampling of units, and the choice of a unit's records.

The amplification that accounting relies on holds only where nobody can predict the sample, so the field uses
`SystemRandomness`. `SeededRandomness` repeats a simulation; it draws samples and never noise.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .keystream import Keystream


class Randomness(Protocol):
    """A source of samples."""

    def uniform(self, size: int) -> NDArray[np.float64]:
        """float64 [size], independent and uniform in [0, 1)."""
        ...

    def choose(self, n: int, k: int) -> NDArray[np.int64]:
        """k different indices out of 0 .. n-1, ascending: int64 [min(k, n)]."""
        ...


class SystemRandomness:
    """Samples from the operating system's secure generator; a fresh key for every call."""

    def uniform(self, size: int) -> NDArray[np.float64]:
        """float64 [size], independent and uniform in [0, 1)."""
        return Keystream().uniform(size)

    def choose(self, n: int, k: int) -> NDArray[np.int64]:
        """k different indices out of 0 .. n-1, ascending: int64 [min(k, n)]."""
        return _first_of_shuffle(self.uniform(n), k)


class SeededRandomness:
    """Samples that repeat with a seed. For tests and simulations of sampling only: they are predictable."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def uniform(self, size: int) -> NDArray[np.float64]:
        """float64 [size], independent and uniform in [0, 1)."""
        return self._generator.random(size)

    def choose(self, n: int, k: int) -> NDArray[np.int64]:
        """k different indices out of 0 .. n-1, ascending: int64 [min(k, n)]."""
        return _first_of_shuffle(self.uniform(n), k)


def poisson_sample(n: int, rate: float, randomness: Randomness) -> NDArray[np.int64]:
    """Each of n units joins independently with probability `rate`.

    Args:
        n: how many units there are.
        rate: q in (0, 1].
        randomness: where chance comes from.

    Returns:
        int64 [m], ascending indices; m is random and may be 0: an empty step is still a noised step.

    Raises:
        ValueError: n is negative or rate outside (0, 1].
    """
    if n < 0 or not 0 < rate <= 1:
        raise ValueError(f"cannot sample {n} units at rate {rate}")
    return np.flatnonzero(randomness.uniform(n) < rate).astype(np.int64)


def _first_of_shuffle(keys: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    if k < 0:
        raise ValueError(f"cannot choose {k} indices")
    return np.sort(np.argsort(keys, kind="stable")[:k]).astype(np.int64)
