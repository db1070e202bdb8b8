"""From right guesses to a lower bound on epsilon: auditing in one run (Steinke, Nasr and Jagielski 2023).

m canaries each join with probability 1/2, independently. A guesser looks at the releases, guesses for r canaries
whether they are in, and is right for v. If the mechanism is (epsilon, delta)-private under adding or removing one
canary, v is hardly above r e^epsilon / (1 + e^epsilon); where it is, epsilon is larger.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The bound is a multiple of the step, rounded down.
_STEP = 0.01
_LARGEST = 20.0
# How many guesses are tried, as shares of the canaries; fixed, so that a correction for their number is sound.
_SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)


@dataclass(frozen=True)
class Guesses:
    """A guesser's best number of guesses, and what it proves.

    Attributes:
        guesser: its name. guesses: r. right: v.
        epsilon: with the stated confidence the mechanism's true epsilon is at least this; 0 proves nothing.
    """

    guesser: str
    guesses: int
    right: int
    epsilon: float


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The most likely it can be that a guesser is right so often about an (epsilon, delta)-private mechanism.

    Steinke et al. 2023, theorem 5.2: P[Bin(r, p) >= v] + 2 m delta max_i P[v > Bin(r, p) >= v - i] / i, with
    p = e^epsilon / (1 + e^epsilon).

    Args:
        canaries: m >= 1. guesses: r in [0, m]. right: v in [0, r]. epsilon >= 0. delta in [0, 1].

    Returns:
        A number in [0, 1].
    """
    from scipy.stats import binom

    if not 0 <= right <= guesses <= canaries or epsilon < 0 or not 0 <= delta <= 1:
        raise ValueError(f"{right} of {guesses} guesses about {canaries} canaries at ({epsilon}, {delta})")
    chance = 1 / (1 + math.exp(-epsilon))
    value = float(binom.sf(right - 1, guesses, chance))
    if delta > 0 and right > 0:
        below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))
        value += 2 * canaries * delta * float(np.max(below / np.arange(1, right + 1)))
    return min(value, 1.0)


def lower_bound(canaries: int, guesses: int, right: int, delta: float, doubt: float) -> float:
    """The largest epsilon up to which every multiple of 0.01 is refuted at level `doubt`; 0.0 where none is.

    Guarantees:
        For an (epsilon, delta)-private mechanism the result exceeds epsilon with probability at most `doubt`: it would
        refute the first multiple at or above epsilon.
    """
    refuted = 0
    while refuted * _STEP < _LARGEST:
        if p_value(canaries, guesses, right, (refuted + 1) * _STEP, delta) >= doubt:
            break
        refuted += 1
    return round(refuted * _STEP, 2)


def best_bound(
    scores: dict[str, NDArray[np.float64]], joined: NDArray[np.bool_], delta: float, confidence: float
) -> Guesses:
    """The best bound over several guessers and numbers of guesses, corrected for their number (Bonferroni).

    Args:
        scores: by guesser, float64 [m]; higher where it believes more that the canary is in. It guesses "in" for the
            highest r/2 and "out" for the lowest r/2.
        joined: [m], the truth.
        delta: of the claim. confidence: that the bound holds, e.g. 0.95.
    """
    counts = guess_counts(len(joined))
    doubt = (1 - confidence) / (len(counts) * len(scores))
    found = []
    for guesser, values in scores.items():
        # NaN would sort as the highest score: a guesser without an opinion comes to stand in the middle.
        order = np.argsort(np.nan_to_num(values, nan=float(np.nanmedian(values))), kind="stable")
        for guesses in counts:
            half = guesses // 2
            right = int(joined[order[-half:]].sum() + (~joined[order[:half]]).sum())
            found.append(Guesses(guesser, guesses, right, lower_bound(len(joined), guesses, right, delta, doubt)))
    return max(found, key=lambda one: (one.epsilon, one.right / one.guesses))


def guess_counts(canaries: int) -> Sequence[int]:
    """The numbers of guesses that are tried: even, at least 2, descending."""
    return sorted({max(2, int(canaries * share) // 2 * 2) for share in _SHARES}, reverse=True)
