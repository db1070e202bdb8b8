"""The masked control block: a one and seven constants in front of every vector.

In the sum they are the number of contributions and as many times each constant, unless a mask did not cancel. So a
round in which organizations saw different views ends before anything is decoded.
"""

import numpy as np
from numpy.typing import NDArray

from .masking import WORD
from .refused import require
from .wire import digest

CONTROL_WORDS = 8
_CONSTANTS = [1] + [int.from_bytes(digest("control", bytes([k]))[:8], "big") for k in range(1, CONTROL_WORDS)]
BLOCK: NDArray[np.uint64] = np.array(_CONSTANTS, dtype=WORD)


def check_control(total: NDArray[np.uint64], contributions: int) -> None:
    """Refuse ("sum.control") a summed block that is not `contributions` times the block, modulo 2^64.

    Args:
        total: uint64 [8].
    """
    expected = BLOCK * np.uint64(contributions)
    require(bool((total == expected).all()), "sum.control", "the masks do not cancel: no sum can be read")
