"""Epsilon of a whole history, and the noise that a planned history needs.

Mechanism: Gaussian noise of standard deviation sigma times the sensitivity on the sum over a Poisson sample of units.
Adjacency: all records of one unit added or removed. One history is composed as a whole; adding up the epsilons of its
rounds would be far too pessimistic. The number comes from numerical composition of privacy loss random variables
(Gopi, Lee and Wutschitz 2021, by Opacus), whose upper end is taken, and is checked against bounds that hold by proof.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from ..errors import UserError
from .bounds import Segment, distinguishing_epsilon, rdp_epsilon, zcdp_epsilon

# Numerical composition is refused above this many grid points: about 2 s and 300 MB on one core.
_MOST_POINTS = 2**20
_SIGMA_GRID = 1_000
_LARGEST_SIGMA = 10_000
_MOST_STEPS = 1_000_000


def epsilon(history: Iterable[Segment], delta: float) -> float:
    """The epsilon that a history of (noise multiplier, sample rate, steps) has spent at `delta`.

    Guarantees:
        Never below what a concrete distinguisher proves (`bounds.distinguishing_epsilon`) and never above what Rényi
        composition proves: a numerical result outside these, or none, is replaced by the Rényi bound. The order of the
        segments does not matter.

    Edge cases:
        No steps at all: 0. No noise in any step: infinite.

    Raises:
        ValueError: a sigma is negative or not finite, a rate outside (0, 1], steps negative, delta outside (0, 1).
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta} is outside (0, 1)")
    merged: dict[tuple[float, float], int] = {}
    for sigma, rate, steps in history:
        if not (math.isfinite(sigma) and sigma >= 0 and 0 < rate <= 1 and steps >= 0):
            raise ValueError(f"cannot account for {steps} steps with noise {sigma} and sample rate {rate}")
        key = (float(sigma), float(rate))
        merged[key] = merged.get(key, 0) + int(steps)
    segments = tuple((sigma, rate, steps) for (sigma, rate), steps in sorted(merged.items()) if steps)
    return _epsilon(segments, float(delta)) if segments else 0.0


def calibrate(target_epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The smallest noise multiplier, in thousandths, with which `steps` steps stay within the budget.

    Guarantees:
        `epsilon([(result, sample_rate, steps)], delta) <= target_epsilon`, by the very function that reports.

    Raises:
        UserError: the budget is not a positive number, or needs a multiplier above 10,000.
        ValueError: a rate, delta or number of steps that no mechanism has.
    """
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise UserError(f"privacy.epsilon is {target_epsilon}", "set it to a positive number")
    if steps < 1:
        raise ValueError(f"cannot calibrate noise for {steps} steps")
    return _calibrate(float(target_epsilon), float(delta), float(sample_rate), int(steps))


def steps_affordable(
    target_epsilon: float, delta: float, noise_multiplier: float, sample_rate: float, history: Sequence[Segment] = ()
) -> int:
    """How many further steps fit into the budget after `history`: 0 to 1,000,000.

    Guarantees:
        Where the result is not 0, the epsilon of the history with that many further steps is within the budget.
    """

    def fits(steps: int) -> bool:
        return epsilon([*history, (noise_multiplier, sample_rate, steps)], delta) <= target_epsilon

    most = 1
    while most <= _MOST_STEPS and fits(most):
        most *= 2
    fitting, exceeding = most // 2, min(most, _MOST_STEPS + 1)
    while exceeding - fitting > 1:
        middle = (fitting + exceeding) // 2
        fitting, exceeding = (middle, exceeding) if fits(middle) else (fitting, middle)
    return fitting


@lru_cache(maxsize=4096)
def _epsilon(segments: tuple[Segment, ...], delta: float) -> float:
    proven = rdp_epsilon(segments, delta)
    if math.isinf(proven):
        return proven
    least = distinguishing_epsilon(segments, delta)
    if proven < least:
        return zcdp_epsilon(segments, delta)
    composed = _numerical(segments, delta, proven)
    return composed if least <= composed <= proven else proven


def _numerical(segments: tuple[Segment, ...], delta: float, proven: float) -> float:
    """The upper end of Opacus' numerical composition, at least 0; NaN where it cannot be had at a bounded cost."""
    from opacus.accountants import PRVAccountant

    error = min(max(proven / 500, 0.001), 0.1)
    delta_error = delta / 1000
    steps = sum(count for _, _, count in segments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # About the grid that Opacus will choose, reach over mesh: it can have more points than memory has bytes.
            reach = rdp_epsilon(segments, delta_error / 4) + 3
            mesh = error / math.sqrt(steps * math.log(12 / delta_error) / 2)
            if not 2 * reach / mesh <= _MOST_POINTS:
                return math.nan
            accountant = PRVAccountant()
            accountant.history = list(segments)
            return max(0.0, float(accountant.get_epsilon(delta, eps_error=error, delta_error=delta_error)))
    except (ArithmeticError, ValueError, RuntimeError, IndexError, MemoryError):
        return math.nan


@lru_cache(maxsize=256)
def _calibrate(target: float, delta: float, rate: float, steps: int) -> float:
    def excess(thousandths: int) -> float:
        spent = epsilon([(thousandths / _SIGMA_GRID, rate, steps)], delta)
        # Close to a straight line over log sigma, so that a secant finds the grid point in a few evaluations.
        return math.log(max(spent, 1e-12) / target)

    above, above_excess = _SIGMA_GRID, excess(_SIGMA_GRID)
    while above_excess > 0:
        if above > _LARGEST_SIGMA * _SIGMA_GRID:
            raise UserError(f"epsilon {target} for {steps} steps is out of reach", "raise epsilon or plan fewer rounds")
        below, below_excess = above, above_excess
        above, above_excess = above * 2, excess(above * 2)
    if above == _SIGMA_GRID:
        below, below_excess = above // 2, excess(above // 2)
        while below_excess <= 0 and below > 1:
            above, above_excess = below, below_excess
            below, below_excess = below // 2, excess(below // 2)
        if below_excess <= 0:
            return below / _SIGMA_GRID
    return _narrow(excess, (below, below_excess), (above, above_excess)) / _SIGMA_GRID


def _narrow(excess: Callable[[int], float], below: tuple[int, float], above: tuple[int, float]) -> int:
    """The neighbors between which `excess` changes its sign from positive to not positive: the upper one."""
    secant = True
    while above[0] - below[0] > 1:
        if secant:
            slope = (above[1] - below[1]) / math.log(above[0] / below[0])
            middle = round(below[0] * math.exp(-below[1] / slope))
        else:
            middle = (below[0] + above[0]) // 2
        middle = min(max(middle, below[0] + 1), above[0] - 1)
        value = excess(middle)
        # Where the secant left most of the bracket standing, halve it next.
        width = above[0] - below[0]
        below, above = ((middle, value), above) if value > 0 else (below, (middle, value))
        secant = not secant or 4 * (above[0] - below[0]) < width
    return above[0]
