"""Flat L2 clipping of per-unit gradients (Abadi et al. 2016), by the factor that each gradient is multiplied with."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Clipping:
    """What clipping does to a batch of B units.

    The counts are not private: they may leave the organization only inside the noised metrics.

    Attributes:
        coefficients: float64 [B] in [0, 1]; 0 where the gradient is not finite.
        clipped: bool [B], True where the gradient was scaled down or dropped.
        non_finite: how many gradients were dropped because their norm is NaN or infinite.
    """

    coefficients: NDArray[np.float64]
    clipped: NDArray[np.bool_]
    non_finite: int


def clip(norms: NDArray[np.floating], max_norm: float) -> Clipping:
    """Coefficients that bring every gradient to an L2 norm of at most `max_norm`.

    Args:
        norms: [B] L2 norms over all trainable parameters of each unit's gradient.
        max_norm: C, positive.

    Guarantees:
        coefficient * norm <= max_norm up to one rounding; 1 exactly where norm <= max_norm.

    Edge cases:
        A coefficient of 0 does not remove a NaN: 0 * NaN is NaN. The caller must also zero that gradient.

    Raises:
        ValueError: max_norm is not a positive finite number, or a norm is negative.
    """
    if not (math.isfinite(max_norm) and max_norm > 0):
        raise ValueError(f"clipping to a norm of {max_norm}")
    values = np.asarray(norms, dtype=np.float64)
    finite = np.isfinite(values)
    if (values[finite] < 0).any():
        raise ValueError("a norm is negative")
    coefficients = max_norm / np.maximum(np.where(finite, values, max_norm), max_norm)
    return Clipping(
        coefficients=np.where(finite, coefficients, 0.0),
        clipped=~finite | (values > max_norm),
        non_finite=int(np.count_nonzero(~finite)),
    )
