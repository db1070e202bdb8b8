"""Epsilon of a whole history, and the noise that a planned history needs.

Mechanism: noise of standard deviation sigma times the sensitivity on the sum over a Poisson sample of units: Gaussian,
or Skellam on a grid. Adjacency: all records of one unit added or removed. One history is composed as a whole; adding up
the epsilons of its rounds would be far too pessimistic. For Gaussian noise the number comes from numerical composition
of privacy loss random variables (`composition`), and is checked against bounds that hold by proof (`bounds`). Where it
fails, whatever the failure, the answer is the bound: larger, never smaller. A history with a step of Skellam noise has
the bound only (`skellam_account`).
"""

import logging
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from functools import lru_cache
from typing import Literal

from ..errors import UserError
from .bounds import GaussianSegment, distinguishing_epsilon, rdp_epsilon, zcdp_epsilon
from .composition import composed_epsilon
from .history import Segment, Segments, kinds, merged, segment
from .skellam import Grid
from .skellam_account import skellam_epsilon, unsampled_epsilon

log = logging.getLogger("cotune.privacy")
_SIGMA_GRID = 1_000
_LARGEST_SIGMA = 10_000
_MOST_STEPS = 1_000_000
# Far above the few seconds that the largest grid takes: a numerical composition that hangs is given up.
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Accounted:
    """An epsilon and where it comes from.

    Attributes:
        epsilon: what is reported and compared with budgets; an upper bound whatever the method.
        method: "prv" is numerical composition; "rdp" the Rényi bound and "zcdp" the bound of concentrated differential
            privacy without sampling, each because what stands before it failed or was implausible; "none" no steps.
        rdp: the bound that holds by proof, for comparison; `epsilon` is at most this.
    """

    epsilon: float
    method: Literal["prv", "rdp", "zcdp", "none"]
    rdp: float


def epsilon(history: Iterable[Segment], delta: float) -> float:
    """The epsilon that a history of segments has spent at `delta`: `accounted`'s."""
    return accounted(history, delta).epsilon


def accounted(history: Iterable[Segment], delta: float) -> Accounted:
    """The epsilon that a history of segments has spent at `delta`, and how it was found.

    The history is what really happened: the steps of the rounds that a member was in, whatever their number was
    expected to be.

    Guarantees:
        Never below what a concrete distinguisher proves (`bounds.distinguishing_epsilon`) and never above what Rényi
        composition proves: a numerical result outside these, or none, is replaced by the Rényi bound. The order of the
        segments does not matter.

    Edge cases:
        No steps at all: 0. No noise in any step: infinite. Skellam noise in any step: the Rényi bound.

    Raises:
        ValueError: a sigma is negative or not finite, a rate outside (0, 1], steps negative, delta outside (0, 1).
    """
    segments = _merged(history, delta)
    if not segments:
        return Accounted(0.0, "none", 0.0)
    proven, least = _proven(segments, float(delta))
    gaussian, discrete = kinds(segments)
    if math.isinf(proven.epsilon) or discrete:
        return proven
    composed = _composed(gaussian, float(delta))
    # NaN compares as false: without a lower bound there is no check, and no check no number.
    return Accounted(composed, "prv", proven.rdp) if least <= composed <= proven.epsilon else proven


def rounded(value: float, up: bool = True) -> str:
    """Three decimals for a person: what is spent rounds up, what is left (`up=False`) down."""
    if not math.isfinite(value):
        return f"{value:g}"
    # Less a hair, so that 0.1 + 0.2 is 0.300.
    thousandths = math.ceil(value * 1000 - 1e-6) if up else math.floor(value * 1000 + 1e-6)
    return f"{thousandths / 1000:.3f}"


def rounded_delta(value: float) -> str:
    """Two digits for a person, rounded up: what holds at a delta holds at a larger one."""
    return f"{float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(value))):.1e}"


def calibrate(
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    history: Sequence[Segment] = (),
    grid: Grid | None = None,
) -> float:
    """The smallest noise multiplier, in thousandths, with which `steps` more steps after `history` stay in the budget.

    Args:
        grid: of Skellam noise; None for Gaussian noise.

    Guarantees:
        `epsilon([*history, segment(result, sample_rate, steps, grid)], delta) <= target_epsilon`, by the very function
        that reports.

    Raises:
        UserError: the budget is not a positive number, or needs a multiplier above 10,000.
        ValueError: a rate, delta or number of steps that no mechanism has.
    """
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise UserError(f"privacy.epsilon is {target_epsilon}", "set it to a positive number")
    if steps < 1:
        raise ValueError(f"cannot calibrate noise for {steps} steps")
    return _calibrate(float(target_epsilon), float(delta), float(sample_rate), int(steps), tuple(history), grid)


def steps_affordable(
    target_epsilon: float,
    delta: float,
    noise_multiplier: float,
    sample_rate: float,
    history: Sequence[Segment] = (),
    grid: Grid | None = None,
) -> int:
    """How many further steps fit into the budget after `history`: 0 to 1,000,000.

    Guarantees:
        Where the result is not 0, the epsilon of the history with that many further steps is within the budget.
    """

    def fits(steps: int) -> bool:
        more = segment(noise_multiplier, sample_rate, steps, grid)
        return _against(target_epsilon, [*history, more], delta) <= target_epsilon

    most = 1
    while most <= _MOST_STEPS and fits(most):
        most *= 2
    fitting, exceeding = most // 2, min(most, _MOST_STEPS + 1)
    while exceeding - fitting > 1:
        middle = (fitting + exceeding) // 2
        fitting, exceeding = (middle, exceeding) if fits(middle) else (fitting, middle)
    return fitting


def _merged(history: Iterable[Segment], delta: float) -> Segments:
    """`history.merged`; ValueError as `accounted`."""
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta} is outside (0, 1)")
    return merged(history)


def _against(target: float, history: Iterable[Segment], delta: float) -> float:
    """A number on the same side of `target` as the epsilon of `history`, cheaper where a bound decides already."""
    segments = _merged(history, delta)
    if not segments:
        return 0.0
    proven, least = _proven(segments, float(delta))
    if proven.epsilon <= target:
        return proven.epsilon
    return least if least > target else accounted(segments, delta).epsilon


def _proven(segments: Segments, delta: float) -> tuple[Accounted, float]:
    """The Rényi bound, or where it fails or contradicts the distinguisher, the closed form that nothing can break;
    and what the distinguisher proves, NaN where it fails."""
    gaussian, discrete = kinds(segments)
    # Of the Gaussian steps: a part of a history tells no more than the whole.
    least = _attempt(lambda: distinguishing_epsilon(gaussian, delta))
    rdp = _attempt(lambda: skellam_epsilon(discrete, delta, gaussian) if discrete else rdp_epsilon(gaussian, delta))
    if math.isfinite(rdp) and rdp >= (0.0 if math.isnan(least) else least):
        return Accounted(rdp, "rdp", rdp), least
    closed = unsampled_epsilon(discrete, delta, gaussian) if discrete else zcdp_epsilon(gaussian, delta)
    return Accounted(closed, "zcdp", closed), least


_numbers: dict[tuple[tuple[GaussianSegment, ...], float], float] = {}
_MOST_NUMBERS = 4096


def _composed(segments: tuple[GaussianSegment, ...], delta: float) -> float:
    """`composed_epsilon`, kept; NaN where it fails. A failure is not kept: the next call tries again."""
    key = (segments, delta)
    if key not in _numbers:
        value = _attempt(lambda: composed_epsilon(segments, delta), _PATIENCE_SECONDS)
        if not math.isfinite(value):
            return math.nan
        if len(_numbers) >= _MOST_NUMBERS:
            _numbers.clear()
        _numbers[key] = value
    return _numbers[key]


def _attempt(compute: Callable[[], float], patience: float | None = None) -> float:
    """What `compute` returns, or NaN where it raises anything or takes longer than `patience` seconds.

    A computation that is given up cannot be killed: its thread runs on and what it finds is ignored.
    """
    found = [math.nan]

    def run() -> None:
        try:
            found[0] = float(compute())
        except Exception as failure:
            log.info("accounting falls back to a bound: %s: %s", type(failure).__name__, failure)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if patience is None:
            run()
            return found[0]
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(patience)
    if thread.is_alive():
        log.warning("accounting falls back to a bound: no result after %g seconds", patience)
        return math.nan
    return found[0]


@lru_cache(maxsize=256)
def _calibrate(target: float, delta: float, rate: float, steps: int, history: Segments, grid: Grid | None) -> float:
    def excess(thousandths: int) -> float:
        spent = _against(target, [*history, segment(thousandths / _SIGMA_GRID, rate, steps, grid)], delta)
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
