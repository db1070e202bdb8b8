"""Shamir's secret sharing over GF(2^521 - 1) (Shamir, How to share a secret, 1979).

The field is larger than any 32-byte secret, so a share says nothing about the secret, not even a residue.
"""

import secrets
from collections.abc import Sequence

PRIME = 2**521 - 1
SHARE_BYTES = 66


def split(secret: bytes, threshold: int, points: Sequence[int]) -> list[int]:
    """Shares of a secret: any `threshold` of them rebuild it, fewer say nothing.

    Args:
        secret: at most 64 bytes, read as a big-endian integer.
        threshold: how many shares rebuild the secret.
        points: distinct positions, 1 <= x < PRIME, at least `threshold` of them.

    Returns:
        One value for each point.
    """
    if len(secret) > 64 or len(set(points)) != len(points) or not all(0 < x < PRIME for x in points):
        raise ValueError("a secret of at most 64 bytes and distinct points above zero are needed")
    if not 1 <= threshold <= len(points):
        raise ValueError("the threshold must lie between one and the number of points")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)] + [int.from_bytes(secret, "big")]
    shares = []
    for x in points:
        value = 0
        for coefficient in coefficients:
            value = (value * x + coefficient) % PRIME
        shares.append(value)
    return shares


def weights(points: Sequence[int]) -> list[int]:
    """Lagrange's weights at zero for these points; compute once, combine many secrets."""
    result = []
    for x in points:
        above = below = 1
        for other in points:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        result.append(above * pow(below, -1, PRIME) % PRIME)
    return result


def combine(shares: Sequence[int], at_zero: Sequence[int]) -> int:
    """The polynomial's value at zero from shares and the `weights` of their points."""
    return sum(share * weight for share, weight in zip(shares, at_zero, strict=True)) % PRIME


def as_secret(value: int, size: int = 32) -> bytes | None:
    """The secret's bytes, or None where the value is too large to be one (wrong shares were combined)."""
    return value.to_bytes(size, "big") if value < 1 << (8 * size) else None
