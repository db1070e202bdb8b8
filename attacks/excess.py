"""Whether canaries show through more than the claimed mechanism lets them: far sharper than a bound on epsilon.

The bound in one run asks whether *any* private mechanism could have produced what was seen, and leaves a factor in
epsilon. Here the question is narrower: does *this* mechanism, Gaussian noise of the claimed size on a Poisson sample at
the claimed rate, separate canaries that are in from those that are out as well as the audit saw? A reference that is
simulated from the claim alone, with none of the product's code, says how well it should.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..privacy.terms import PrivacyTerms

REFERENCE_CANARIES: Final = 20_000

ALARM: Final = 6.0
"""Standard deviations. A sound mechanism exceeds it with probability 1e-9 for each guesser."""


def simulated(
    terms: PrivacyTerms, steps: int, generator: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """What a mechanism that does as it claims shows of canaries longer than the clip norm.

    Returns:
        [REFERENCE_CANARIES] which are in, and float64 [steps, REFERENCE_CANARIES] as `canaries.Observed.seen`.
    """
    shape = (steps, REFERENCE_CANARIES)
    joined = generator.random(REFERENCE_CANARIES) < 0.5
    seen = generator.standard_normal(shape)
    # The sensitivity once more by hand: gradient 1, and three metrics of a each, in clip norms.
    seen *= terms.noise_multiplier * math.sqrt(1 + 3 * terms.metrics_weight**2)
    seen += (generator.random(shape, dtype=np.float32) < terms.sample_rate) & joined
    return joined, seen


def separation(scores: NDArray[np.float64], joined: NDArray[np.bool_]) -> tuple[float, float]:
    """The probability that a canary that is in scores higher than one that is out, and the square of its standard
    error (DeLong et al. 1988)."""
    from scipy.stats import rankdata

    inside, outside = scores[joined], scores[~joined]
    ranks = rankdata(np.concatenate([inside, outside]))
    # For each canary, the share of the other kind that it is on the right side of.
    above = (ranks[: len(inside)] - rankdata(inside)) / len(outside)
    below = 1 - (ranks[len(inside) :] - rankdata(outside)) / len(inside)
    variance = above.var(ddof=1) / len(inside) + below.var(ddof=1) / len(outside)
    return float(above.mean()), float(variance)


def excess(found: tuple[float, float], expected: tuple[float, float]) -> float:
    """By how many standard deviations canaries separate better than expected; both as `separation` returns them."""
    # A perfect separation has no spread of its own; a hair keeps the quotient finite.
    return (found[0] - expected[0]) / math.sqrt(found[1] + expected[1] + 1e-12)
