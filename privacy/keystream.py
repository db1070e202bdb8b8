"""Cryptographically secure random words: AES-256 in counter mode under a key of the operating system.

numpy's generators are predictable from their output and `torch` has no secure generator, so sampling and noise that a
privacy guarantee rests on come from here. A key serves one call and is dropped, so nothing has to survive a restart,
and the counter can start at zero. A stream that lives through a fork goes on under a new key in the child, and none can
be pickled: no two processes ever draw the same noise.
"""

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

_UNIT = 2.0**-53
_DROPPED_BITS = np.uint64(11)


class Keystream:
    """One AES-256-CTR stream with a fresh key."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._encryptor = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
        self._process = os.getpid()

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` words of the stream: uint64 [count]."""
        if os.getpid() != self._process:
            self._start()
        stream = bytearray(8 * count)
        # Zeros encrypted in place are the stream itself.
        self._encryptor.update_into(stream, stream)
        return np.frombuffer(stream, dtype="<u8").astype(np.uint64, copy=False)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """The next `count` numbers k 2^-53, k uniform in 0 .. 2^53 - 1: float64 [count] in [0, 1)."""
        return (self.words(count) >> _DROPPED_BITS).astype(np.float64) * _UNIT

    def uniform_positive(self, count: int) -> NDArray[np.float64]:
        """As `uniform`, one step higher: float64 [count] in (0, 1], so that its logarithm is finite."""
        return self.uniform(count) + _UNIT
