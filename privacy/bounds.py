"""Bounds on epsilon that hold by proof, on both sides of the number that accounting reports.

Mechanism: the Gaussian mechanism on a Poisson sample. Adjacency: one unit added or removed. A history is a sequence of
segments (noise multiplier sigma, sample rate q, steps k), composed in any order.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GaussianSegment = tuple[float, float, int]

# Rényi orders: dense where large epsilons have their optimum, wide where tiny ones have it.
ORDERS = (
    1.01,
    1.02,
    1.05,
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *range(11, 64),
    72,
    80,
    96,
    128,
    192,
    256,
    512,
)

_GRID = 400
# What float64 loses of a divergence times (order - 1), and of the divergence itself: a hundred times what was seen.
_LOSS = 1e-12
# Below this noise the integrals would need too many points.
_SMALLEST_SIGMA = 0.02
_MOST_STEPS = 1_000


def rdp_epsilon(history: Sequence[GaussianSegment], delta: float) -> float:
    """Upper bound by Rényi differential privacy of the sampled Gaussian (Mironov, Talwar and Zhang 2019), converted by
    Balle et al. 2020, theorem 21; where that does not evaluate, by `zcdp_epsilon`.

    Its cost does not depend on the number of steps.

    Returns:
        epsilon >= 0; infinite where a segment has no noise.
    """
    if any(sigma == 0 for sigma, _, _ in history):
        return math.inf
    unamplified = zcdp_epsilon(history, delta)
    curve = np.zeros(len(ORDERS))
    for sigma, rate, steps in history:
        curve += steps * rdp_curve(sigma, rate)
    orders = np.array(ORDERS)
    with np.errstate(all="ignore"):
        epsilons = curve - (math.log(delta) + np.log(orders)) / (orders - 1) + np.log1p(-1 / orders)
    epsilons = epsilons[np.isfinite(epsilons)]
    return max(0.0, float(np.min(epsilons, initial=unamplified)))


def zcdp_epsilon(history: Sequence[GaussianSegment], delta: float) -> float:
    """Upper bound in closed form, as if every unit joined every step: sampling can only help.

    Concentrated differential privacy (Bun and Steinke 2016, proposition 1.3): rho = sum k / (2 sigma^2) gives
    epsilon = rho + 2 sqrt(rho log(1/delta)).
    """
    if any(sigma == 0 for sigma, _, _ in history):
        return math.inf
    # Products, not powers: those overflow with an error.
    rho = sum(steps * (1 / sigma) * (1 / sigma) / 2 for sigma, _, steps in history)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def distinguishing_epsilon(history: Sequence[GaussianSegment], delta: float) -> float:
    """Lower bound: no sound account of this history can be smaller.

    An adversary who adds up the outputs of k equal steps sees N(0, k sigma^2) without the unit and N(J, k sigma^2),
    J ~ Bin(k, q), with it. For every threshold, delta >= P[with] - e^epsilon P[without]. The best threshold on a grid,
    and the best segment of the history, give the bound.
    """
    return max((_segment_lower_bound(sigma, rate, steps, delta) for sigma, rate, steps in history), default=0.0)


@lru_cache(maxsize=4096)
def _segment_lower_bound(sigma: float, rate: float, steps: int, delta: float) -> float:
    from scipy.special import log_ndtr, ndtr
    from scipy.stats import binom

    if sigma == 0:
        return math.inf
    # Fewer steps tell less, so a cut history still gives a lower bound.
    steps = min(steps, _MOST_STEPS)
    spread = sigma * math.sqrt(steps)
    thresholds = np.linspace(-2 * spread, steps + 6 * spread, _GRID)[:, None]
    joined = np.arange(steps + 1)
    present = ndtr((joined - thresholds) / spread) @ binom.pmf(joined, steps, rate)
    surplus = present - delta
    absent = log_ndtr(-thresholds[:, 0] / spread)
    usable = surplus > 0
    return max(0.0, float(np.max(np.log(surplus[usable]) - absent[usable], initial=0.0)))


@lru_cache(maxsize=4096)
def rdp_curve(sigma: float, rate: float) -> NDArray[np.float64]:
    """One step's Rényi divergence at `ORDERS`; NaN where an order does not evaluate, or cannot be right."""
    from opacus.accountants.analysis.rdp import compute_rdp

    curve = np.full(len(ORDERS), math.nan)
    with np.errstate(all="ignore"):
        for index, order in enumerate(ORDERS):
            if float(order).is_integer():
                try:
                    curve[index] = compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=float(order))
                except (ArithmeticError, ValueError):
                    continue
        fractional = np.array([not float(order).is_integer() for order in ORDERS])
        curve[fractional] = _integrated(sigma, rate, np.array(ORDERS)[fractional])
    return _plausible(curve, sigma, rate)


def _integrated(sigma: float, rate: float, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """log E[(1 - q + q e^((2 z - 1) / (2 sigma^2)))^a] / (a - 1) for z ~ N(0, sigma^2), float64 [orders].

    Mironov et al. 2019, section 3.3, whose series Opacus evaluates for orders that are no integers; the trapezoid rule
    gives the same in a hundredth of the time. The integrand is analytic up to pi sigma^2 off the real line, so the
    error of a step h falls as e^(-2 pi^2 sigma^2 / h): below 1e-17 here.
    """
    if not _SMALLEST_SIGMA <= sigma < 1 / _SMALLEST_SIGMA**4:
        return np.full(len(orders), math.nan)
    step = min(sigma / 8, sigma**2 / 2)
    z = np.arange(-14 * sigma, orders.max() + 14 * sigma, step)
    ratio = np.logaddexp(math.log1p(-rate) if rate < 1 else -math.inf, math.log(rate) + (2 * z - 1) / (2 * sigma**2))
    weight = -(z**2) / (2 * sigma**2) + math.log(step / (sigma * math.sqrt(2 * math.pi)))
    return np.array([np.logaddexp.reduce(order * ratio + weight) / (order - 1) for order in orders])


def _plausible(curve: NDArray[np.float64], sigma: float, rate: float) -> NDArray[np.float64]:
    """The curve, made safe: one order that is wrong downwards would be the minimum over the orders.

    A divergence never falls with its order, is at most that without sampling, and from order 2 on at least that of
    order 2, log(1 + q^2 (e^(1 / sigma^2) - 1)). What is outside is dropped, and what float64 may have lost is
    added: a million steps multiply it.
    """
    orders = np.array(ORDERS)
    exponent = (1 / sigma) * (1 / sigma)
    # log(1 + q^2 (e^x - 1)) without overflow.
    least = math.log1p(rate**2 * math.expm1(exponent)) if exponent < 700 else exponent + 2 * math.log(rate)
    with np.errstate(all="ignore"):
        most = orders * exponent / 2
        floor = np.where(orders < 2, 0.0, least)
        sound = np.isfinite(curve) & (curve <= most * (1 + 1e-9) + 1e-9)
        sound &= curve >= floor * (1 - 1e-9) - _LOSS / (orders - 1)
        rising = np.maximum.accumulate(np.where(sound, np.maximum(curve, floor), 0.0))
    return np.where(sound, rising * (1 + _LOSS) + _LOSS / (orders - 1), math.nan)
