"""Clip the gradients of a physical batch of units and add them, with their metrics, to the sum that leaves."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..privacy.clipping import clip
from ..privacy.terms import PrivacyTerms, encode_metrics

# A float32 sum of millions of equal squares can be 1% too small. Over blocks of this length it is right to
# BLOCK / 2 roundings of 2^-24 at worst, whatever the order of the additions; the rest is added in float64.
BLOCK: Final = 512

NORM_SLACK: Final = 2e-5
"""Norms count as this much longer: what `BLOCK`, and rounding coefficients and products to float32, may lose."""

_LARGEST_OVER_CLIP: Final = 2.0**100
"""A coefficient far below 2^-126 has no precision left in float32: a gradient that needs one is dropped."""


def unit_norms(gradients: torch.Tensor) -> NDArray[np.float64]:
    """L2 norms of the rows of float32 [U, d]: float64 [U], right to 1.6e-5; NaN or infinite where a row is not finite.

    Edge cases: coordinates above 2^63 count as infinite and coordinates below 2^-75 as zero, as their squares do.
    """
    whole = gradients.shape[1] // BLOCK * BLOCK
    blocks = torch.linalg.vector_norm(gradients[:, :whole].reshape(len(gradients), whole // BLOCK, BLOCK), dim=2)
    rest = torch.linalg.vector_norm(gradients[:, whole:], dim=1, keepdim=True)
    norms: NDArray[np.float64] = torch.linalg.vector_norm(torch.cat([blocks, rest], 1).double(), dim=1).cpu().numpy()
    return norms


def add_clipped(total: NDArray[np.float64], gradients: torch.Tensor, losses: torch.Tensor, terms: PrivacyTerms) -> int:
    """Add the clipped gradients of U units and their metrics to a sum.

    Args:
        total: float64 [d + 3], gradient then `METRICS`; changed in place.
        gradients: float32 [U, d]; rows that are dropped are overwritten by zeros.
        losses: [U] mean loss of each unit, nats a token.
        terms: clip norm and scales of the metrics.

    Returns:
        How many units were dropped because their gradient is not finite, or too long to be scaled in float32. It is
        not private: it must not leave the organization. A dropped unit counts as clipped in the metrics.

    Guarantees:
        Each unit adds at most `terms.max_grad_norm` to the gradient and `terms.sensitivity` in all, in the L2 norm.
    """
    norms = unit_norms(gradients) * (1.0 + NORM_SLACK)
    norms[~(norms <= _LARGEST_OVER_CLIP * terms.max_grad_norm)] = np.inf
    clipping = clip(norms, terms.max_grad_norm)
    if clipping.non_finite:
        gradients[torch.from_numpy(np.isinf(norms)).to(gradients.device)] = 0.0
    coefficients = torch.from_numpy(clipping.coefficients).to(gradients.device, gradients.dtype)
    dimension = gradients.shape[1]
    total[:dimension] += (coefficients @ gradients).cpu().numpy()
    total[dimension:] += encode_metrics(losses.double().cpu().numpy(), clipping.clipped, terms).sum(axis=0)
    return clipping.non_finite
