"""Numerical composition of privacy loss random variables (Gopi, Lee and Wutschitz 2021), at a bounded cost.

The pieces are Opacus'. Three things are done here: both directions of add/remove are composed and the worse is taken,
Opacus composes removing only; the width of the grid comes from Rényi curves that are kept between calls, which is
nine tenths of Opacus' time; and whoever asks for more than a grid can give gets NaN.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bounds import GaussianSegment, rdp_epsilon

# Grid points of one composition, and of all its segments together: at most about 5 s and 300 MB on one core.
_MOST_POINTS = 2**20
_MOST_WORK = 2**22
# What float64 may do to the mass of a tail, for each grid point; taken off delta, and at most so much of it.
_ROUNDING = 2.0**-52
_MOST_ROUNDING = 0.1
_LEAST_ERROR = 0.001


def composed_epsilon(segments: Sequence[GaussianSegment], delta: float) -> float:
    """The upper end of the composition's epsilon: the truth, plus at most twice the grid's error.

    Args:
        segments: (noise multiplier > 0, sample rate, steps >= 1), each pair of the first two at most once.
        delta: in (0, 1).

    Returns:
        epsilon >= 0, or NaN where the grid would be too large, too fine for float64 at this delta, or no better than
        the Rényi bound. The error in epsilon is a 500th of that bound, at least 0.001 and at most 0.1; in delta a
        1000th of it.

    Raises:
        ArithmeticError, ValueError, RuntimeError, MemoryError: the numerics failed.
    """
    bound = rdp_epsilon(segments, delta)
    error = min(max(bound / 500, _LEAST_ERROR), 0.1)
    if bound < 4 * _LEAST_ERROR:
        return math.nan
    delta_error = delta / 1000
    steps = sum(count for _, _, count in segments)
    mesh = error / math.sqrt(steps * math.log(12 / delta_error) / 2)
    reach = _reach(segments, steps, delta_error)
    points = 2 * reach / mesh
    rounding = points * _ROUNDING
    if not (points <= _MOST_POINTS and points * len(segments) <= _MOST_WORK and rounding <= _MOST_ROUNDING * delta):
        return math.nan
    wanted = (delta, delta_error + rounding, error)
    return max(0.0, *(_one_way(segments, (reach, mesh), wanted, removed) for removed in (True, False)))


def _reach(segments: Sequence[GaussianSegment], steps: int, delta_error: float) -> float:
    """Half the grid's width: what is lost beyond it weighs less than `delta_error` (Gopi et al., remark 5.6)."""
    whole = rdp_epsilon(segments, delta_error / 4)
    single = (rdp_epsilon([(sigma, rate, 1)], delta_error / (8 * steps)) for sigma, rate, _ in segments)
    return max(whole, *single) + 3


def _one_way(
    segments: Sequence[GaussianSegment], grid: tuple[float, float], wanted: tuple[float, float, float], removed: bool
) -> float:
    from opacus.accountants.analysis.prv import (
        Domain,
        PoissonSubsampledGaussianPRV,
        TruncatedPrivacyRandomVariable,
        compose_heterogeneous,
        discretize,
    )

    reach, mesh = grid
    delta, delta_error, error = wanted
    loss = PoissonSubsampledGaussianPRV if removed else _added()
    with np.errstate(all="ignore"):
        domain = Domain.create_aligned(-reach, reach, mesh)
        cut = [
            TruncatedPrivacyRandomVariable(loss(rate, sigma), domain.t_min, domain.t_max) for sigma, rate, _ in segments
        ]
        discrete = [discretize(one, domain) for one in cut]
        whole = compose_heterogeneous(discrete, [count for _, _, count in segments])
        return float(whole.compute_epsilon(delta, delta_error, error)[2])


@cache
def _added() -> Any:
    """The loss of adding a unit: the negative of removing it, under the other distribution."""
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV
    from scipy.special import ndtr

    class Added(PoissonSubsampledGaussianPRV):  # type: ignore[misc]
        def cdf(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
            """P[loss <= t]. With x from the noise alone, the loss is -log(1 - q + q e^((2x - 1) / (2 sigma^2)))."""
            rate, sigma = self.sample_rate, self.noise_multiplier
            inner = (np.exp(-np.asarray(t)) + rate - 1) / rate
            threshold = sigma**2 * np.log(np.where(inner > 0, inner, 1.0)) + 0.5
            return np.where(inner > 0, ndtr(-threshold / sigma), 1.0)

    return Added
