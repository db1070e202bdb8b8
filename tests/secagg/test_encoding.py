"""Exact lanes, saturation, unbiased rounding, refused input."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from cotune.secagg import encoding as module
from cotune.secagg.encoding import Encoding
from cotune.secagg.masking import CHUNK_WORDS, KeyStream, scratch
from cotune.secagg.refused import Refused
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray


def encoded(encoding: Encoding, vector: NDArray[np.floating]) -> tuple[NDArray[np.uint64], int]:
    words = np.full(encoding.words, 2**64 - 1, dtype=np.uint64)
    return words, encoding.encode(vector, words)


def lanes_of(encoding: Encoding, words: NDArray[np.uint64]) -> list[int]:
    """Slow reference: the lane of each coordinate in Python integers."""
    mask = (1 << encoding.lane_bits) - 1
    spots = (divmod(j, encoding.words)[::-1] for j in range(encoding.dimension))
    return [(int(words[word]) >> (lane * encoding.lane_bits)) & mask for word, lane in spots]


def test_the_default_lane_gives_two_and_two_thirds_bytes() -> None:
    encoding = Encoding(((3_000_000, 1.0),), 10, 21)
    assert encoding.words * 8 / encoding.dimension == pytest.approx(8 / 3)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("lane_bits", [12, 16, 21, 32])
def test_two_hundred_saturated_parties_stay_exact(sign: float, lane_bits: int) -> None:
    encoding = Encoding(((7, 0.5),), 200, lane_bits)
    total = np.zeros(encoding.words, dtype=np.uint64)
    for _ in range(200):
        words, cut = encoded(encoding, np.full(7, sign * 1e9))
        assert cut == 7
        total += words
    lanes = lanes_of(encoding, total)
    assert lanes == [0 if sign < 0 else 400 * encoding.levels] * 7
    assert 400 * encoding.levels < 2**lane_bits <= 400 * (encoding.levels + 1)
    assert np.allclose(encoding.decode(total, 200), sign * 100.0, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0.003, 1.0, 250.0])), min_size=1, max_size=6),
    st.integers(3, 200),
    st.integers(12, 32),
    st.integers(0, 2**32 - 1),
)
def test_each_lane_is_one_of_the_two_neighbors(
    segments: list[tuple[int, float]], n: int, lane_bits: int, seed: int
) -> None:
    encoding = Encoding(tuple(segments), n, lane_bits)
    clips = np.concatenate([np.full(size, clip) for size, clip in segments])
    vector = np.random.default_rng(seed).uniform(-1.2, 1.2, encoding.dimension) * clips
    words, cut = encoded(encoding, vector)
    assert cut == np.count_nonzero(np.abs(vector) > clips)
    exact = np.clip(vector / clips, -1, 1) * encoding.levels + encoding.levels
    lanes = np.array(lanes_of(encoding, words), dtype=np.float64)
    assert (np.abs(lanes - exact) < 1 + 1e-6).all()
    assert np.allclose(encoding.decode(words, 1), (lanes - encoding.levels) * clips / encoding.levels, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60), st.integers(3, 60), st.integers(8, 32), st.integers(0, 2**32 - 1), st.sampled_from(["f4", "f8"])
)
def test_the_formula_in_fractions(size: int, n: int, lane_bits: int, seed: int, dtype: str) -> None:
    """floor(x / s + U) + K, exactly, with the very U that was drawn."""
    encoding = Encoding(((size, 0.75),), n, lane_bits) if 2**lane_bits > 2 * n else Encoding(((size, 0.75),), n, 16)
    vector = np.random.default_rng(seed).uniform(-0.8, 0.8, size).astype(dtype)
    words = np.empty(encoding.words, dtype=np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "new_secret", lambda: bytes(32))
        encoding.encode(vector, words)
    stream, buffer, expected = KeyStream(bytes(32)), scratch(), []
    for lane in range(encoding.lanes):
        stream.fill(buffer, encoding.words * 4)
        draws = np.frombuffer(buffer, "<i4", encoding.words) // 2048 * 2048 + 1024
        for x, draw in zip(vector[lane * encoding.words :][: encoding.words], draws, strict=False):
            scaled = max(-encoding.levels, min(encoding.levels, Fraction(float(x) * (encoding.levels / 0.75))))
            expected.append(floor(scaled + Fraction(int(draw), 2**32) + Fraction(1, 2)) + encoding.levels)
    assert lanes_of(encoding, words) == expected


@pytest.mark.parametrize("lane_bits", [12, 21, 32])
def test_zero_and_the_bounds_are_exact(lane_bits: int) -> None:
    size = 40_000
    encoding = Encoding(((size, 3.0),), 3, lane_bits)
    for value, lane in ((0.0, encoding.levels), (3.0, 2 * encoding.levels), (-3.0, 0)):
        words, cut = encoded(encoding, np.full(size, value))
        assert cut == 0
        assert set(lanes_of(encoding, words)) == {lane}


@pytest.mark.parametrize("lane_bits", [8, 12, 21, 32])
def test_the_extreme_draws_round_as_the_rest(lane_bits: int) -> None:
    """The smallest and the largest draw would tie, and at the bounds leave the lane, were they not made odd.

    Far from zero a double has no bits for the lowest of a draw: rounded away, the draw would tie there too.
    """
    encoding = Encoding(((2, 1.0),), 3, lane_bits)
    far = (encoding.levels * part // 8 + odd for part in (-7, -4, 3, 5, 7) for odd in (0, 1))
    for steps in (-encoding.levels, -1, 0, 1, encoding.levels, *far):
        scaled, draws = np.full(2, steps * 2.0**32), np.array([-(2**31), 2**31 - 1], dtype=np.int32)
        lanes = encoding._round(scaled, draws).view(np.uint64) & np.uint64(2**lane_bits - 1)
        assert lanes.tolist() == [steps + encoding.levels] * 2


def test_a_product_beyond_the_doubles_is_cut() -> None:
    encoding = Encoding(((2, 1e-30),), 3, 21)
    words, cut = encoded(encoding, np.array([-1e300, 1e300]))
    assert cut == 2
    assert lanes_of(encoding, words) == [0, 2 * encoding.levels]


def test_workers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "new_secret", lambda: bytes(32))
    size = 3 * (4 * CHUNK_WORDS) - 5
    encoding = Encoding(((size // 2, 1.0), (size - size // 2, 2.0)), 5, 21)
    vector = np.random.default_rng(2).uniform(-1.5, 1.5, size)
    alone, cut = encoded(encoding, vector)
    for workers in (2, 3, 8):
        words = np.empty(encoding.words, dtype=np.uint64)
        assert encoding.encode(vector, words, workers) == cut
        assert np.array_equal(words, alone)
    vector[-1] = np.nan
    with pytest.raises(Refused, match="finite"):
        encoding.encode(vector, words, 2)


def test_no_draw_is_used_twice() -> None:
    """Lanes and chunks of a constant vector are independent: equal neighbors as often as chance has it."""
    size = 3 * 2 * CHUNK_WORDS
    encoding = Encoding(((size, 1.0),), 200, 12)
    words, _ = encoded(encoding, np.full(size, 0.5 / encoding.levels))
    ups = np.array(encoding.decode(words, 1) * encoding.levels > 0.5)
    for distance in (1, encoding.words, CHUNK_WORDS, CHUNK_WORDS // 2):
        same = (ups[distance:] == ups[:-distance]).mean()
        assert abs(same - 0.5) < 6 * 0.5 / np.sqrt(size - distance)


def test_chunks_join_without_a_seam() -> None:
    size = CHUNK_WORDS * 3 * 2 + 1234
    encoding = Encoding(((size // 3, 1.0), (size - size // 3, 4.0)), 5, 21)
    vector = np.random.default_rng(1).uniform(-1, 1, size)
    words, cut = encoded(encoding, vector)
    assert cut == 0
    steps = np.repeat(encoding.steps(), [size // 3, size - size // 3])
    assert (np.abs(encoding.decode(words, 1) - vector) < steps).all()


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.93])
def test_rounding_is_unbiased(fraction: float) -> None:
    size = 400_000
    encoding = Encoding(((size, 1.0),), 200, 12)
    value = (3 + fraction) / encoding.levels
    words, _ = encoded(encoding, np.full(size, value))
    ups = np.round((encoding.decode(words, 1) * encoding.levels) - 3)
    # Six standard errors of a proportion; a multiple of the step is one only up to the last bit of a double.
    assert abs(ups.mean() - fraction) < 6 * np.sqrt(fraction * (1 - fraction) / size) + 1e-5


def test_rounding_differs_from_call_to_call() -> None:
    encoding = Encoding(((999, 1.0),), 3, 21)
    vector = np.full(999, 0.123456789)
    assert not np.array_equal(encoded(encoding, vector)[0], encoded(encoding, vector)[0])


def test_the_clamp_comes_after_the_floor() -> None:
    """float32(K) + 0.99998 rounds to K + 1: an overflow unless it is cut afterwards."""
    encoding = Encoding(((3 * CHUNK_WORDS, 1.0),), 3, 32)
    words, cut = encoded(encoding, np.ones(3 * CHUNK_WORDS, dtype=np.float32))
    assert cut == 0
    assert max(lanes_of(encoding, words)) == 2 * encoding.levels


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 500, 999])
def test_nan_and_infinity_are_refused(bad: float, at: int) -> None:
    encoding = Encoding(((400, 1.0), (600, 2.0)), 3, 21)
    vector = np.zeros(1000)
    vector[at] = bad
    with pytest.raises(Refused) as no:
        encoded(encoding, vector)
    assert no.value.code == "vector.finite"


@pytest.mark.parametrize("vector", [np.zeros(9), np.zeros((10, 1)), np.zeros(10, dtype=np.int64)])
def test_wrong_vectors_are_refused(vector: NDArray[np.floating]) -> None:
    with pytest.raises(Refused) as no:
        encoded(Encoding(((10, 1.0),), 3, 21), vector)
    assert no.value.code == "vector.shape"


@pytest.mark.parametrize("size", [1, 4, 50, 301])
def test_parts_are_decoded_as_the_whole(size: int) -> None:
    """Each part of the words is some runs of coordinates; together they are all of them, once."""
    encoding = Encoding(((size, 1.0), (7, 30.0)), 3, 21)
    words = np.zeros(encoding.words, dtype="<u8")
    for number in range(2):
        one = np.zeros_like(words)
        encoding.encode(np.random.default_rng(number).uniform(-1, 1, encoding.dimension), one)
        words += one
    whole, found = encoding.decode(words, 2), np.full(encoding.dimension, np.nan)
    for start in range(0, encoding.words, 5):
        part = words[start : start + 5]
        runs = encoding.runs(start, start + len(part))
        for (first, last), (at, values) in zip(runs, encoding.decode_part(part, start, 2), strict=True):
            assert (at, len(values)) == (first, last - first)
            assert np.isnan(found[first:last]).all()
            found[first:last] = values
    assert np.array_equal(found, whole)


def test_decoding_checks_lanes_padding_and_spare_bits() -> None:
    encoding = Encoding(((4, 1.0),), 5, 21)
    good, _ = encoded(encoding, np.zeros(4))
    for word, bit in ((0, 20), (0, 42 + 5), (1, 42 + 20), (0, 63)):
        bad = good.copy()
        bad[word] |= np.uint64(1 << bit)
        with pytest.raises(Refused) as no:
            encoding.decode(bad, 1)
        assert no.value.code == "sum.range"
    assert encoding.decode(good, 1).shape == (4,)


@pytest.mark.parametrize(
    ("segments", "parties", "lane_bits"),
    [
        ((), 3, 21),
        (((0, 1.0),), 3, 21),
        (((5, 0.0),), 3, 21),
        (((5, -1.0),), 3, 21),
        (((5, float("nan")),), 3, 21),
        (((5, float("inf")),), 3, 21),
        (((2**31, 1.0), (1, 1.0)), 3, 21),
        (((5, 1.0),), 3, 7),
        (((5, 1.0),), 3, 33),
        (((5, 1.0),), 200, 8),
        (((5, 1.0),), 0, 21),
    ],
)
def test_impossible_encodings_are_refused(
    segments: tuple[tuple[int, float], ...], parties: int, lane_bits: int
) -> None:
    with pytest.raises(Refused, match="encoding"):
        Encoding(segments, parties, lane_bits)
