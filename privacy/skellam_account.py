"""The account of Skellam noise: Rényi divergences at integer orders, composed with those of Gaussian steps.

The bound is that of Agarwal, Kairouz and Liu 2021, theorem 3.5, amplified by Poisson sampling. It is about the integers
that are sent, the random rounding of the sum included (`skellam`). There is no numerical composition: a history with
one such step is accounted for by its divergences as a whole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .bounds import ORDERS, GaussianSegment, rdp_curve
from .skellam import Grid

# Those beyond `ORDERS` are for tiny epsilons of Skellam noise alone.
INTEGER_ORDERS: Final = (*(int(order) for order in ORDERS if float(order).is_integer()), 1024, 2048, 4096)
"""The bound is proved at integer orders only."""

# The part of delta that pays for a change which rounding makes longer than its bound.
_ROUNDING_SHARE = 1e-3


@dataclass(frozen=True)
class Segment:
    """Equal steps of a history: the grid, the noise multiplier of the sum that is seen, the sample rate, the steps.

    Raises:
        ValueError: a number that no mechanism has.
    """

    grid: Grid
    multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        finite = math.isfinite(self.multiplier) and self.multiplier > 0
        if not (finite and 0 < self.sample_rate <= 1 and self.steps >= 0):
            raise ValueError(f"cannot account for {self}")


def skellam_epsilon(history: Sequence[Segment], delta: float, gaussian: Sequence[GaussianSegment] = ()) -> float:
    """Upper bound on the epsilon of Poisson samples, rounded and noised with Skellam noise, and of Gaussian steps.

    Args:
        history: the steps on grids. delta: in (0, 1). gaussian: (sigma, sample rate, steps) of the others.

    Returns:
        epsilon >= 0; infinite where a step has no noise.
    """
    _require_delta(delta)
    if any(sigma == 0 for sigma, _, _ in gaussian):
        return math.inf
    if not sum(segment.steps for segment in history) + sum(steps for _, _, steps in gaussian):
        return 0.0
    chance, left = _split(history, delta)
    curve = np.zeros(len(INTEGER_ORDERS))
    for segment in history:
        curve += segment.steps * sampled_curve(segment.grid, segment.multiplier, segment.sample_rate, chance)
    for sigma, rate, steps in gaussian:
        gaussian_curve = dict(zip(ORDERS, rdp_curve(sigma, rate), strict=True))
        curve += steps * np.array([gaussian_curve.get(order, math.nan) for order in INTEGER_ORDERS])
    orders = np.array(INTEGER_ORDERS)
    # Balle et al. 2020, theorem 21.
    epsilons = curve - (math.log(left) + np.log(orders)) / (orders - 1) + np.log1p(-1 / orders)
    unsampled = unsampled_epsilon(history, delta, gaussian)
    return max(0.0, float(np.min(epsilons[np.isfinite(epsilons)], initial=unsampled)))


def unsampled_epsilon(history: Sequence[Segment], delta: float, gaussian: Sequence[GaussianSegment] = ()) -> float:
    """The same in closed form, as if every unit joined every step.

    Every step has at integer orders at most the divergence order * rho, as a Gaussian of rho = 1 / (2 sigma^2) has. The
    epsilon of their sum at one order is that of Mironov 2017, proposition 3.
    """
    _require_delta(delta)
    if any(sigma == 0 for sigma, _, _ in gaussian):
        return math.inf
    chance, left = _split(history, delta)
    rho = sum(count * (1 / sigma) * (1 / sigma) / 2 for sigma, _, count in gaussian)
    rho += sum(segment.steps * _concentrated(segment, chance) for segment in history)
    if rho in (0.0, math.inf):
        return rho
    # The best order is 1 + root; any is right. Far out it makes no difference that it is an integer.
    root = math.sqrt(math.log(1 / left) / rho)
    order = max(2, round(1 + min(root, 1e9)))
    return order * rho + math.log(1 / left) / (order - 1)


def divergence(order: NDArray[np.float64], l2: float, l1: float, variance: float) -> NDArray[np.float64]:
    """Rényi divergence between Skellam noise and itself moved by integers, at most (Agarwal et al. 2021, theorem 3.5).

    Args:
        order: integers above 1. l2, l1: norms of the move, in steps. variance: mu of each coordinate.
    """
    gaussian = order * l2**2 / (2 * variance)
    fine = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    return np.asarray(gaussian + np.minimum(fine, 3 * l1 / (2 * variance)))


@lru_cache(maxsize=1024)
def sampled_curve(grid: Grid, multiplier: float, sample_rate: float, chance: float) -> NDArray[np.float64]:
    """One step's Rényi divergence at `INTEGER_ORDERS`, where every unit joins with probability q.

    E[((1 - q) + q L)^a], L being the likelihood ratio, expands into the divergences of the orders up to a. That is the
    direction of adding a unit; removing one costs no more, since noise and its move are mirror images of each other
    (Mironov, Talwar and Zhang 2019, theorem 5), on the integers too.

    Args:
        chance: with which rounding may make one unit's change longer than accounted for.
    """
    l2, l1 = grid.norms(chance)
    variance = grid.variance(multiplier)
    every = np.arange(2, INTEGER_ORDERS[-1] + 1, dtype=np.float64)
    # (l - 1) D_l for l = 0, 1, 2, ...
    moments = np.concatenate([[0.0, 0.0], (every - 1) * divergence(every, l2, l1, variance)])
    return np.array([_amplified(order, moments, sample_rate) / (order - 1) for order in INTEGER_ORDERS])


def _concentrated(segment: Segment, chance: float) -> float:
    """rho with which one step's divergence, unsampled, is at most order * rho at every integer order."""
    l2, l1 = segment.grid.norms(chance)
    variance = segment.grid.variance(segment.multiplier)
    if variance * variance == 0:
        return math.inf
    # D_a / a, whose second term falls or rises with a: the larger of a = 2 and its limit.
    excess = l2**2 / (2 * variance**2) + max(0.0, 6 * l1 - l2**2) / (8 * variance**2)
    return l2**2 / (2 * variance) + excess


def _require_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta} is outside (0, 1)")


def _split(history: Sequence[Segment], delta: float) -> tuple[float, float]:
    """What each rounding may take of delta, and what is left of it.

    The former is a power of two, so that curves are found again while a history grows.
    """
    share = _ROUNDING_SHARE * delta / max(1, sum(segment.steps for segment in history))
    return math.ldexp(0.5, math.frexp(share)[1]) if share else 0.0, (1 - _ROUNDING_SHARE) * delta


def _amplified(order: int, moments: NDArray[np.float64], rate: float) -> float:
    from scipy.special import gammaln

    if rate == 1.0:
        return float(moments[order])
    joined = np.arange(order + 1)
    ways = gammaln(order + 1) - gammaln(joined + 1) - gammaln(order - joined + 1)
    terms = ways + (order - joined) * math.log1p(-rate) + joined * math.log(rate) + moments[: order + 1]
    return max(0.0, float(np.logaddexp.reduce(terms)))
