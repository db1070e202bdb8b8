"""Clip the gradients of units and add them, with their metrics, to the sum that leaves: in integers.

A sum of rounded numbers depends on all of them in its last bits. So what a unit adds is rounded to a grid first, by
itself, and added as integers, which is exact: with a unit or without it, everybody else adds the same. With C the clip
norm and a the metrics' weight, gradients are counted in steps of p, the power of two in [C, 2 C) 2^-32, and metrics in
steps of the power of two in [a C, 2 a C) 2^-32. A unit adds at most 2^32 steps to a coordinate, so sums of `MOST_UNITS`
fit into float64 exactly.

What is added never exceeds the agreed norm. Let g be the gradient of d coordinates, n its norm as computed, u = 2^-24:

    n (1 + 1.6e-5) >= |g|                                        (`unit_norm`)
    the coefficient k <= C / (n (1 + `norm_slack`)), and k g, as float32, is off by (1 + u)^3 at most
    rounding d coordinates to the grid adds sqrt(d) p / 2 <= sqrt(d) C 2^-32 at most
    rounding three metrics adds 3 a^2 C^2 (2^-31 + 2^-64) at most to the square of the whole length

`norm_slack` exceeds the sum of all four, the last one as 3 a^2 2^-31, so that the whole is at most S long.
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..privacy.clipping import clip
from ..privacy.terms import METRICS, PrivacyTerms, encode_metrics

# A float32 sum of millions of equal squares can be 1% too small. Over blocks of this length it is right to
# BLOCK / 2 roundings of 2^-24 at worst, whatever the order of the additions; the rest is added in float64.
BLOCK: Final = 512

NORM_SLACK: Final = 2e-5
"""Norms count as this much longer for what float32 may lose: 1.53e-5 in `BLOCK`, some 2^-24 in scaling."""

MOST_UNITS: Final = 2**20
"""Of a sum that is exact."""

_LARGEST_OVER_CLIP: Final = 2.0**100
"""A coefficient far below 2^-126 has no precision left in float32: a gradient that needs one is dropped."""

_AT_ONCE: Final = 2**20  # coordinates that are rounded at once: bounds memory


def norm_slack(dimension: int, terms: PrivacyTerms) -> float:
    """By how much the norm of a gradient of d coordinates counts as longer, relative to it."""
    return NORM_SLACK + (math.sqrt(dimension) + 6 * terms.metrics_weight**2) * 2.0**-32


def steps_of(terms: PrivacyTerms) -> tuple[float, float]:
    """What one integer stands for: in the gradient, and in the metrics; powers of two."""
    return _step(terms.max_grad_norm), _step(terms.max_grad_norm * terms.metrics_weight)


def _step(scale: float) -> float:
    """The power of two in [scale, 2 scale) 2^-32."""
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(1.0, exponent - (mantissa == 0.5) - 32)


def unit_norm(gradient: torch.Tensor) -> float:
    """L2 norm of float32 [d], right to 1.6e-5; NaN or infinite where it is not finite.

    Edge cases: coordinates above 2^63 count as infinite and coordinates below 2^-75 as zero, as their squares do.
    """
    whole = len(gradient) // BLOCK * BLOCK
    blocks = torch.linalg.vector_norm(gradient[:whole].view(-1, BLOCK), dim=1)
    rest = torch.linalg.vector_norm(gradient[whole:])
    return float(torch.linalg.vector_norm(torch.cat([blocks, rest[None]]).double()))


def add_clipped(total: torch.Tensor, gradients: torch.Tensor, losses: torch.Tensor, terms: PrivacyTerms) -> int:
    """Add the clipped gradients of U units and their metrics to a sum.

    Args:
        total: int64 [d + 3], gradient then `METRICS`, in the steps of `steps_of`; changed in place.
        gradients: float32 [U, d].
        losses: [U] mean loss of each unit, nats a token.
        terms: clip norm and scales of the metrics.

    Returns:
        How many units were dropped because their gradient is not finite, or too long to be scaled in float32. It is
        not private: it must not leave the organization. A dropped unit counts as clipped in the metrics.

    Guarantees:
        Each unit adds at most `terms.max_grad_norm` to the gradient and `terms.sensitivity` in all, in the L2 norm, and
        always the same integers: nothing of the other units has a part in them.
    """
    step, metric_step = steps_of(terms)
    dimension, dropped = gradients.shape[1], 0
    slack = 1.0 + norm_slack(dimension, terms)
    for gradient, loss in zip(gradients, losses.tolist(), strict=True):
        norm = unit_norm(gradient) * slack
        if not norm <= _LARGEST_OVER_CLIP * terms.max_grad_norm:
            norm = math.inf
        clipping = clip(np.array([norm]), terms.max_grad_norm)
        dropped += clipping.non_finite
        if not clipping.non_finite:
            _add_rounded(total[:dimension], gradient, float(clipping.coefficients[0]) / step)
        metrics = np.rint(encode_metrics(np.array([loss]), clipping.clipped, terms)[0] / metric_step)
        total[dimension:] += torch.from_numpy(metrics.astype(np.int64)).to(total.device)
    return dropped


def in_numbers(total: torch.Tensor, terms: PrivacyTerms) -> NDArray[np.float64]:
    """A sum of `add_clipped`, of at most `MOST_UNITS` units, as float64 [d + 3]; exact."""
    step, metric_step = steps_of(terms)
    numbers: NDArray[np.float64] = total.cpu().numpy().astype(np.float64)
    numbers[: -len(METRICS)] *= step
    numbers[-len(METRICS) :] *= metric_step
    return numbers


def _add_rounded(total: torch.Tensor, gradient: torch.Tensor, scale: float) -> None:
    for start in range(0, len(gradient), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        total[part] += (gradient[part] * scale).round_().to(total.device, torch.int64)
