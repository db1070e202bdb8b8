"""Real vectors as packed lanes of uint64 words whose sum is exact, and back.

A coordinate x with the public bound c becomes floor(x / s + U) + K in [0, 2K] with step s = c / K and U uniform on
[0, 1) (stochastic rounding: unbiased). A lane of b bits holds the sum of all parties without a carry:
n * 2K <= 2^b - 1. The bounds come from the plan, never from the data, so the encoding itself says nothing about anyone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .keys import new_secret
from .masking import CHUNK_WORDS, WORD, KeyStream, scratch
from .refused import require

MIN_LANE_BITS = 8
MAX_LANE_BITS = 32
MAX_DIMENSION = 2**31
MAX_SEGMENTS = 65536


@dataclass(frozen=True)
class Encoding:
    """The public encoding of a round.

    Args:
        segments: (length, clip) in the order of the vector; |x| <= clip is represented, clip in the unit of the vector.
        parties: the largest number of contributions a sum can have (n).
        lane_bits: b, from 8 to 32. 21 gives three lanes in a word: 2.67 bytes for each coordinate.

    Raises:
        Refused: "encoding.segments", "encoding.lanes" where the terms are out of bounds or K would be zero.
    """

    segments: tuple[tuple[int, float], ...]
    parties: int
    lane_bits: int

    def __post_init__(self) -> None:
        require(0 < len(self.segments) <= MAX_SEGMENTS, "encoding.segments", "no segments, or too many")
        good = all(size > 0 and math.isfinite(clip) and 1e-30 <= clip <= 1e30 for size, clip in self.segments)
        require(good, "encoding.segments", "a segment without length, or a clip out of bounds")
        require(self.dimension <= MAX_DIMENSION, "encoding.segments", "the vector is too long")
        require(MIN_LANE_BITS <= self.lane_bits <= MAX_LANE_BITS, "encoding.lanes", "lane_bits must be from 8 to 32")
        require(self.parties >= 1 and self.levels >= 1, "encoding.lanes", "a lane is too narrow for so many parties")

    @cached_property
    def dimension(self) -> int:
        """Coordinates of the vector."""
        return sum(size for size, _ in self.segments)

    @property
    def levels(self) -> int:
        """K: steps from zero to the bound."""
        return ((1 << self.lane_bits) - 1) // (2 * self.parties)

    @property
    def lanes(self) -> int:
        """L: lanes in a word."""
        return 64 // self.lane_bits

    @property
    def words(self) -> int:
        """Words of an encoded vector."""
        return -(-self.dimension // self.lanes)

    def steps(self) -> NDArray[np.float64]:
        """The step s of each segment, float64 [segments]: the error of a mean is below one step."""
        return np.array([clip / self.levels for _, clip in self.segments])

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, float]]:
        """The parts of [start, stop) with one clip each, as slices relative to `start`."""
        ends = self._ends
        number = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            end = min(stop, int(ends[number]))
            yield slice(start, end), self.segments[number][1]
            start, number = end, number + 1

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([size for size, _ in self.segments], dtype=np.int64)

    def encode(self, vector: NDArray[np.floating], words: NDArray[np.uint64]) -> int:
        """Round, clamp and pack into `words`.

        The randomness is an AES-256-CTR stream under a fresh key of the operating system's generator. U has 32 bits, so
        the bias is below 2^-32 of a step.

        Args:
            vector: float64 or float32 [dimension].
            words: uint64 [self.words], overwritten.

        Returns:
            How many coordinates lay beyond their bound and were cut to it.

        Raises:
            Refused: "vector.shape", "vector.finite"; `words` may then hold anything.
        """
        right = vector.shape == (self.dimension,) and vector.dtype in (np.float64, np.float32)
        require(right, "vector.shape", f"the vector must be floats of shape ({self.dimension},)")
        stream, buffer = KeyStream(new_secret()), scratch()
        saturated = 0
        for at in range(0, self.words, CHUNK_WORDS):
            start = at * self.lanes
            stop = min(self.dimension, start + CHUNK_WORDS * self.lanes)
            scaled, cut = self._scale(vector, start, stop)
            saturated += cut
            self._round(scaled, stream, buffer)
            self._pack(scaled, words[at : at + CHUNK_WORDS])
        return saturated

    def _scale(self, vector: NDArray[np.floating], start: int, stop: int) -> tuple[NDArray[np.float64], int]:
        """x / s of [start, stop), and how many lie beyond their bound."""
        scaled = np.empty(stop - start)
        cut, inside = 0, self.levels * (1 - 1e-9)
        for part, clip in self._pieces(start, stop):
            values, out = vector[part], scaled[part.start - start : part.stop - start]
            with np.errstate(over="ignore"):  # a product beyond the doubles is an infinity, which the clamp cuts
                np.multiply(values, self.levels / clip, out=out)
            if not (out.min() >= -inside and out.max() <= inside):  # also where one of them is NaN
                require(bool(np.isfinite(values).all()), "vector.finite", "the vector holds NaN or an infinity")
                cut += int(np.count_nonzero(np.abs(values) > clip))
        return scaled, cut

    def _round(self, scaled: NDArray[np.float64], stream: KeyStream, buffer: bytearray) -> None:
        """floor(x / s + U) + K, clamped to [0, 2K] after the floor (K + 0.99... may round up to K + 1), in place."""
        uniform = np.empty(CHUNK_WORDS * 2)
        for start in range(0, len(scaled), CHUNK_WORDS * 2):
            part = scaled[start : start + CHUNK_WORDS * 2]
            stream.fill(buffer, len(part) * 4)
            np.multiply(np.frombuffer(buffer, "<u4", len(part)), 2.0**-32, out=uniform[: len(part)])
            part += uniform[: len(part)]
            np.floor(part, out=part)
            part += self.levels
            np.clip(part, 0, 2 * self.levels, out=part)

    def _pack(self, rounded: NDArray[np.float64], words: NDArray[np.uint64]) -> None:
        words[:] = rounded[:: self.lanes]
        for lane in range(1, self.lanes):
            column = rounded[lane :: self.lanes].astype(WORD)
            words[: len(column)] |= column << np.uint64(lane * self.lane_bits)

    def decode(self, words: NDArray[np.uint64], contributions: int) -> NDArray[np.float64]:
        """The sum of the vectors from the sum of their words.

        Args:
            words: uint64 [words], unmasked.
            contributions: how many organizations are in the sum.

        Returns:
            float64 [dimension], in the unit of the vectors: the sum, not the mean.

        Raises:
            Refused: "sum.range" where a lane, the padding or a spare bit holds what no honest sum can.
        """
        require(
            words.shape == (self.words,) and 1 <= contributions <= self.parties, "sum.range", "wrong shape or count"
        )
        values = np.empty(self.dimension)
        mask, top = np.uint64((1 << self.lane_bits) - 1), 2 * self.levels * contributions
        used = self.lane_bits * self.lanes
        for at in range(0, self.words, CHUNK_WORDS):
            chunk = words[at : at + CHUNK_WORDS]
            spare = used < 64 and bool((chunk >> np.uint64(used)).any())
            lanes = np.empty(len(chunk) * self.lanes, dtype=WORD)
            for lane in range(self.lanes):
                lanes[lane :: self.lanes] = (chunk >> np.uint64(lane * self.lane_bits)) & mask
            start = at * self.lanes
            stop = min(self.dimension, start + len(lanes))
            wrong = spare or int(lanes.max()) > top or bool(lanes[stop - start :].any())
            require(not wrong, "sum.range", "a lane of the sum is out of range")
            self._unscale(lanes[: stop - start], contributions, values, start)
        return values

    def _unscale(self, lanes: NDArray[np.uint64], contributions: int, out: NDArray[np.float64], start: int) -> None:
        signed = lanes.astype(np.int64) - contributions * self.levels
        for part, clip in self._pieces(start, start + len(lanes)):
            np.multiply(signed[part.start - start : part.stop - start], clip / self.levels, out=out[part])
