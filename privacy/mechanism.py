"""The noise of a private step: what turns a clipped sum into a release.

Both mechanisms draw from the operating system's generator, once, for gradient and metrics together.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from .noise import gaussian
from .skellam import on_grid, skellam
from .terms import PrivacyTerms

_MOST_STEPS: Final = 2.0**51
"""Of the grid: steps are exact up to here."""


def noised(total: NDArray[np.float64], terms: PrivacyTerms) -> NDArray[np.float64]:
    """A clipped sum with the terms' noise on every coordinate.

    Args:
        total: float64 [d + 3], finite. terms: with privacy enabled.

    Returns:
        float64 [d + 3], ready to leave the organization. With Skellam noise every number is a multiple of
        `terms.grid_step`, exactly: float64 holds such multiples up to 2^53 steps.

    Raises:
        ValueError: there is no noise to add, or the grid's account is about fewer coordinates.
    """
    if not terms.enabled:
        raise ValueError("these terms have no noise")
    grid = terms.grid
    if grid is None:
        return total + gaussian(len(total), terms.noise_std)
    if len(total) > grid.dimension:
        raise ValueError(f"{len(total)} coordinates, but the account is about {grid.dimension}")
    # To cut what a run's numbers never reach adds nothing to anybody's part; to refuse it would tell of the data.
    within = np.clip(total, -_MOST_STEPS * grid.step, _MOST_STEPS * grid.step)
    integers = on_grid(within, grid.step)
    integers += skellam(len(total), grid.variance(terms.own_multiplier))
    return integers.astype(np.float64) * grid.step
