"""A history of noised steps, as accounting takes it: segments of equal steps, of Gaussian noise or of Skellam noise."""

import math
from collections.abc import Iterable
from dataclasses import astuple

from .bounds import GaussianSegment
from .skellam import Grid
from .skellam_account import Segment as SkellamSegment

Segment = GaussianSegment | SkellamSegment
"""(noise multiplier, sample rate, steps) of Gaussian noise, or the segment of Skellam noise on a grid."""
Segments = tuple[Segment, ...]


def segment(sigma: float, sample_rate: float, steps: int, grid: Grid | None = None) -> Segment:
    """Equal steps; without a grid the noise is Gaussian.

    Raises:
        ValueError: on a grid, a number that no mechanism has.
    """
    return (sigma, sample_rate, steps) if grid is None else SkellamSegment(grid, sigma, sample_rate, steps)


def merged(history: Iterable[Segment]) -> Segments:
    """The history with equal mechanisms in one segment, sorted, without empty segments.

    Raises:
        ValueError: a sigma is negative or not finite, a rate outside (0, 1], or steps negative.
    """
    counts: dict[tuple[Grid | None, float, float], int] = {}
    for one in history:
        sigma, rate, steps, grid = _parts(one)
        if not (math.isfinite(sigma) and sigma >= 0 and 0 < rate <= 1 and steps >= 0):
            raise ValueError(f"cannot account for {steps} steps with noise {sigma} and sample rate {rate}")
        key = (grid, float(sigma), float(rate))
        counts[key] = counts.get(key, 0) + int(steps)
    order = sorted(counts.items(), key=lambda item: (_rank(item[0][0]), item[0][1:]))
    return tuple(segment(sigma, rate, steps, grid) for (grid, sigma, rate), steps in order if steps)


def kinds(segments: Segments) -> tuple[tuple[GaussianSegment, ...], tuple[SkellamSegment, ...]]:
    """The steps with Gaussian noise and those with Skellam noise."""
    discrete = tuple(one for one in segments if isinstance(one, SkellamSegment))
    return tuple(one for one in segments if not isinstance(one, SkellamSegment)), discrete


def _parts(one: Segment) -> tuple[float, float, int, Grid | None]:
    if isinstance(one, SkellamSegment):
        return one.multiplier, one.sample_rate, one.steps, one.grid
    return *one, None


def _rank(grid: Grid | None) -> tuple[float, ...]:
    return () if grid is None else astuple(grid)
