"""What is measured: CPU seconds, heap and bytes of one client and of the server."""

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from cotune.secagg.plan import least_survivors
from numpy.typing import NDArray

T = TypeVar("T")


@dataclass
class Cost:
    """CPU seconds of one client and of the whole server, bytes that one client sends up, its peak of heap in bytes."""

    client: float
    server: float
    upload: int
    peak: int


class Stopwatch:
    """Adds up CPU seconds (user + system, all threads) of the calls given to it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, call: Callable[..., T], *arguments: object) -> T:
        start = time.process_time()
        value = call(*arguments)
        self.seconds += time.process_time() - start
        return value


def with_peak(call: Callable[..., T], *arguments: object) -> tuple[T, int]:
    """The value of a call, and the most bytes that Python and numpy held at once because of it (tracemalloc)."""
    tracemalloc.start()
    try:
        value = call(*arguments)
        return value, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def dropouts(n: int) -> int:
    """How many organizations drop out after the key exchange: one where the threshold allows it."""
    return min(1, n - least_survivors(n))


def vector_of(index: int, parameters: int) -> NDArray[np.float32]:
    """One organization's update, float32 [parameters]."""
    return np.random.default_rng(index).standard_normal(parameters, dtype=np.float32) * np.float32(0.1)
