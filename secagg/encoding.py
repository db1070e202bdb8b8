"""Real vectors as packed lanes of uint64 words whose sum is exact, and back.

A coordinate x with the public bound c becomes floor(x / s + U) + K in [0, 2K] with step s = c / K and U uniform on
[0, 1) (stochastic rounding: unbiased). A lane of b bits holds the sum of all parties without a carry:
n * 2K <= 2^b - 1. The bounds come from the plan, never from the data, so the encoding itself says nothing about anyone.

Word w of W holds the coordinates w, W + w, 2W + w, ..., the first in its lowest bits: so a lane of many words is a
slice of the vector, and every step below is one pass over contiguous memory that stays in the cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .keys import new_secret
from .masking import CHUNK_WORDS, WORD, KeyStream, in_spans, scratch
from .refused import require

MIN_LANE_BITS = 8
MAX_LANE_BITS = 32
MAX_DIMENSION = 2**31
MAX_SEGMENTS = 65536

# Fractions of a step that the rounding knows: x / s is computed in units of 1 / _FINE.
_FINE = 2.0**32
# Of draws, in the same unit.
_FINEST_DRAW = 2**10
# A double of at least 1.5 * 2^52 has no bits for a fraction: adding this rounds a number to the nearest integer (the
# only mode that numpy uses), and leaves that integer in the low bits of the sum.
_SHIFTER = 1.5 * 2.0**52


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
        good = all(size > 0 and 1e-30 <= clip <= 1e30 for size, clip in self.segments)
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

    def _clipped(self, start: int, stop: int) -> Iterator[tuple[slice, float]]:
        """The parts of [start, stop) with one clip each."""
        ends = self._ends
        number = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            end = min(stop, int(ends[number]))
            yield slice(start, end), self.segments[number][1]
            start, number = end, number + 1

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([size for size, _ in self.segments], dtype=np.int64)

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The coordinates [first, last) that each lane of the words [start, stop) holds, the lowest lane first."""
        for lane in range(self.lanes):
            first, last = (min(lane * self.words + word, self.dimension) for word in (start, stop))
            yield first, last

    def _slices(self, start: int, stop: int) -> Iterator[tuple[np.uint64, int, int]]:
        """`runs`, each after the shift of its lane."""
        for lane, (first, last) in enumerate(self.runs(start, stop)):
            yield np.uint64(lane * self.lane_bits), first, last

    def encode(self, vector: NDArray[np.floating], words: NDArray[np.uint64], workers: int = 1) -> int:
        """Round, clamp and pack into `words`.

        The randomness is an AES-256 key stream under a fresh key of the operating system's generator. U has 21 bits and
        is symmetric, so the bias is below 2^-22 of a step, and a multiple of the step stays what it is.

        Args:
            vector: float64 or float32 [dimension].
            words: uint64 [self.words], overwritten.
            workers: threads.

        Returns:
            How many coordinates lay beyond their bound and were cut to it.

        Raises:
            Refused: "vector.shape", "vector.finite"; `words` may then hold anything.
        """
        right = vector.shape == (self.dimension,) and vector.dtype in (np.float64, np.float32)
        require(right, "vector.shape", f"the vector must be floats of shape ({self.dimension},)")
        seed = new_secret()
        return sum(in_spans(self.words, workers, lambda *span: self._encode(vector, words, seed, *span)))

    def _encode(
        self, vector: NDArray[np.floating], words: NDArray[np.uint64], seed: bytes, start: int, stop: int
    ) -> int:
        """Encode the words [start, stop), start at a chunk. Each lane of a chunk draws from its own chunk of stream."""
        stream, buffer, scaled = KeyStream(seed, start * self.lanes), scratch(), np.empty(CHUNK_WORDS)
        draws, lane_mask, cut = np.frombuffer(buffer, "<i4", CHUNK_WORDS), np.uint64((1 << self.lane_bits) - 1), 0
        for at in range(start, stop, CHUNK_WORDS):
            chunk = words[at : min(at + CHUNK_WORDS, stop)]
            chunk[:] = 0
            for shift, first, last in self._slices(at, at + len(chunk)):
                stream.fill(buffer, len(chunk) * draws.itemsize)
                part = scaled[: last - first]
                cut += self._scale(vector, first, last, part)
                lanes = self._round(part, draws[: last - first]).view(WORD)
                lanes &= lane_mask
                lanes <<= shift
                chunk[: last - first] |= lanes
        return cut

    def _scale(self, vector: NDArray[np.floating], first: int, last: int, scaled: NDArray[np.float64]) -> int:
        """x / s of the coordinates [first, last), in units of 1 / _FINE, within bounds. Returns how many were cut."""
        bound = self.levels * _FINE
        with np.errstate(over="ignore"):  # a product beyond the doubles is an infinity, which the clamp cuts
            for part, clip in self._clipped(first, last):
                np.multiply(
                    vector[part], bound / clip, out=scaled[part.start - first : part.stop - first], dtype=np.float64
                )
        if not len(scaled) or (scaled.min() >= -bound and scaled.max() <= bound):  # False where one of them is NaN
            return 0
        require(bool(np.isfinite(vector[first:last]).all()), "vector.finite", "the vector holds NaN or an infinity")
        np.clip(scaled, -bound, bound, out=scaled)
        return sum(self._beyond(vector[part], clip) for part, clip in self._clipped(first, last))

    @staticmethod
    def _beyond(values: NDArray[np.floating], clip: float) -> int:
        return int(np.count_nonzero(np.abs(values) > np.float64(clip)))

    def _round(self, scaled: NDArray[np.float64], draws: NDArray[np.int32]) -> NDArray[np.float64]:
        """floor(x / s + U) + K in the low bits of each double, in place.

        With V = U - 1/2 that is the integer nearest to x / s + V. A draw is made an odd multiple of 2^10: V is then
        never 1/2 or -1/2, so there are no ties, and from [-K, K] nothing rounds to what lies outside; and a double
        holds its sum with any whole x / s, below 2^31, without rounding.
        """
        draws &= -2 * _FINEST_DRAW
        draws |= _FINEST_DRAW
        scaled += draws
        scaled += (_SHIFTER + self.levels) * _FINE
        return scaled

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
        for at in range(0, self.words, CHUNK_WORDS):
            for first, last, lanes in self._unpack(words[at : at + CHUNK_WORDS], at, contributions):
                self._unscale(lanes.view(np.int64), contributions, values[first:last], first)
        return values

    def check_range(self, chunk: NDArray[np.uint64], start: int, contributions: int) -> None:
        """Refuse a part of a sum that no honest sum can hold, as `decode` does.

        Args:
            chunk: uint64 [w], the words [start, start + w) of the unmasked sum; at most CHUNK_WORDS.
            contributions: how many organizations are in the sum.

        Raises:
            Refused: "sum.range".
        """
        for _ in self._unpack(chunk, start, contributions):
            pass

    def decode_part(
        self, chunk: NDArray[np.uint64], start: int, contributions: int
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """`decode` of a part of a sum; each lane of it is one run of coordinates.

        Args: as for `check_range`.

        Yields:
            (first coordinate, float64 [coordinates of this run]), in the unit of the vectors.

        Raises:
            Refused: "sum.range".
        """
        for first, last, lanes in self._unpack(chunk, start, contributions):
            values = np.empty(last - first)
            self._unscale(lanes.view(np.int64), contributions, values, first)
            yield first, values

    def step_within(self, coordinates: int) -> float:
        """The largest step among the first so many coordinates, in the unit of the vector; 0.0 for none."""
        return max((clip for _, clip in self._clipped(0, min(coordinates, self.dimension))), default=0.0) / self.levels

    def _unpack(
        self, chunk: NDArray[np.uint64], start: int, contributions: int
    ) -> Iterator[tuple[int, int, NDArray[np.uint64]]]:
        """Each lane of a part of a sum, once it is found in range: the coordinates [first, last) and their lanes.

        The lanes are valid until the next step.
        """
        lane_mask, top = np.uint64((1 << self.lane_bits) - 1), 2 * self.levels * contributions
        lanes = np.empty(len(chunk), dtype=WORD)
        right = int(chunk.max(initial=0)) >> (self.lanes * self.lane_bits) == 0
        for shift, first, last in self._slices(start, start + len(chunk)):
            np.right_shift(chunk, shift, out=lanes)
            lanes &= lane_mask
            right = right and int(lanes.max(initial=0)) <= top and not lanes[last - first :].any()
            require(right, "sum.range", "a lane of the sum is out of range")
            yield first, last, lanes[: last - first]

    def _unscale(self, lanes: NDArray[np.int64], contributions: int, values: NDArray[np.float64], first: int) -> None:
        lanes -= contributions * self.levels
        for part, clip in self._clipped(first, first + len(lanes)):
            here = slice(part.start - first, part.stop - first)
            np.multiply(lanes[here], clip / self.levels, out=values[here])
