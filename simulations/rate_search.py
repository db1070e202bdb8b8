"""The rate of a method, found in the same way for each: coarse steps by 4 from a start on, then steps by 2."""

from collections.abc import Callable
from typing import Final

COARSE: Final = 4.0
FINE: Final = 2.0
FARTHEST: Final = 5
"""Coarse steps to either side at most."""


def search(start: float, score: Callable[[float], float]) -> float:
    """The rate with the best score.

    First start / 4, start and 4 start; then by 4 until one rate below the best and two above it were tried; then half
    and twice the best. Two, since between rates that leave the model as it is and those that teach it there are some
    that do neither well. Of equal scores the lower rate's counts: it breaks less.

    Args:
        start: where to begin, positive. score: of a rate, the higher the better; asked once for each.
    """
    found: dict[float, float] = {}

    def tried(rate: float) -> None:
        if rate not in found:
            found[rate] = score(rate)

    for power in (0, -1, 1):
        tried(start * COARSE**power)
    for _ in range(FARTHEST - 1):
        best = best_of(found)
        for power in (-1, 1, 2):
            tried(best * COARSE**power)
        if best_of(found) == best:
            break
    best = best_of(found)
    tried(best / FINE)
    tried(best * FINE)
    return best_of(found)


def best_of(found: dict[float, float]) -> float:
    """The rate of the highest score, the lowest of such."""
    return max(sorted(found), key=lambda rate: found[rate])
