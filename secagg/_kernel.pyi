import numpy as np
from numpy.typing import NDArray

VERSION: int
MASKS: int
HASHES: int

def add_stream(words: NDArray[np.uint64], seed: bytes, chunk: int, sign: int, /) -> None: ...
def hash_pair(
    head: bytes, body: NDArray[np.uint64], other_head: bytes, other_body: NDArray[np.uint64], /
) -> tuple[bytes, bytes]: ...
