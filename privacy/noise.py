"""Gaussian noise from a cryptographically secure generator.

Box and Muller (1958) over 53-bit uniforms in float64. The smallest uniform is 2^-53, so no draw exceeds 8.6 standard
deviations; the tail that is missing has probability 2^-53 for each pair, far below any delta in use. Floating-point
numbers are not the reals (Mironov, CCS 2012): what leaves an organization is rounded to the secure aggregation grid
afterwards, which hides the low bits; docs/limits.md says what that does and does not cover.
"""

import math

import numpy as np
from numpy.typing import NDArray

from .keystream import Keystream

# Pairs in flight: their buffers stay within a core's cache.
_CHUNK = 16_384


def gaussian(size: int, std: float) -> NDArray[np.float64]:
    """Independent draws from N(0, std^2), under a key that is new for every call.

    Args:
        size: how many, 0 or more.
        std: the standard deviation, positive.

    Returns:
        float64 [size].

    Raises:
        ValueError: size is negative, or std is not a positive finite number. Zero is refused too: a caller that wants
            no noise must not ask for noise.
    """
    if size < 0:
        raise ValueError(f"cannot draw {size} numbers")
    if not (math.isfinite(std) and std > 0):
        raise ValueError(f"noise of standard deviation {std}")
    stream = Keystream()
    draws = np.empty(size + size % 2, dtype=np.float64)
    for start in range(0, len(draws), 2 * _CHUNK):
        chunk = draws[start : start + 2 * _CHUNK]
        half = len(chunk) // 2
        radius = np.sqrt(-2.0 * np.log(stream.uniform_positive(half))) * std
        angle = stream.uniform(half) * (2.0 * math.pi)
        np.multiply(radius, np.cos(angle), out=chunk[:half])
        np.multiply(radius, np.sin(angle), out=chunk[half:])
    return draws[:size]
