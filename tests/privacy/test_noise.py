"""The noise: its distribution, its tails, its independence. Bounds are wider than 6 standard errors."""

import math

import numpy as np
import pytest
from cotune.privacy.keystream import Keystream
from cotune.privacy.noise import gaussian
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

N = 1_000_000


def test_moments() -> None:
    draws = gaussian(N, 3.0) / 3.0
    assert abs(draws.mean()) < 7 / math.sqrt(N)
    assert abs(draws.var() - 1) < 7 * math.sqrt(2 / N)
    assert abs((draws**3).mean()) < 7 * math.sqrt(15 / N)
    assert abs((draws**4).mean() - 3) < 7 * math.sqrt(96 / N)


def test_distribution_matches_the_normal_everywhere() -> None:
    draws = np.sort(gaussian(N, 1.0))
    distance = np.abs(norm.cdf(draws) - (np.arange(N) + 0.5) / N).max()
    # Kolmogorov and Smirnov: P[distance > x / sqrt(n)] < 2 exp(-2 x^2), 2e-14 here.
    assert distance < 4.0 / math.sqrt(N)


def test_tails_have_their_mass() -> None:
    draws = np.abs(gaussian(4 * N, 1.0))
    for threshold in (2.0, 3.0, 4.0):
        expected = 4 * N * 2 * norm.sf(threshold)
        assert abs(np.count_nonzero(draws > threshold) - expected) < 8 * math.sqrt(expected)
    assert draws.max() < 8.6


def test_neighbors_halves_and_calls_are_independent() -> None:
    size = 2 * 16_384 * 20
    one, two = gaussian(size, 1.0), gaussian(size, 1.0)
    chunks = one.reshape(20, 2, 16_384)
    pairs = [(one[:-1], one[1:]), (one, two), (chunks[:, 0], chunks[:, 1]), (chunks[:-1], chunks[1:])]
    for left, right in pairs:
        assert abs((left * right).mean()) < 7 / math.sqrt(left.size)
        assert abs(((left**2 - 1) * (right**2 - 1)).mean()) < 7 * 2 / math.sqrt(left.size)


def test_no_call_repeats_another() -> None:
    assert len({gaussian(4, 1.0).tobytes() for _ in range(200)}) == 200
    draws = gaussian(100_000, 1.0)
    assert len(np.unique(draws)) == len(draws)


@given(size=st.integers(0, 70_000), std=st.floats(1e-6, 1e6))
def test_size_and_type(size: int, std: float) -> None:
    draws = gaussian(size, std)
    assert draws.shape == (size,)
    assert draws.dtype == np.float64
    assert np.isfinite(draws).all()
    assert size == 0 or np.abs(draws).max() < 8.6 * std


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_a_request_for_no_noise_is_refused(std: float) -> None:
    with pytest.raises(ValueError, match="noise"):
        gaussian(3, std)


def test_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        gaussian(-1, 1.0)


def test_the_stream_is_aes_256_in_counter_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fixed(size: int) -> bytes:
        asked.append(size)
        return bytes(range(size))

    monkeypatch.setattr("cotune.privacy.keystream.os.urandom", fixed)
    stream = Keystream()
    words = np.concatenate([stream.words(3), stream.words(0), stream.words(5)])
    # Counter mode by hand: the block cipher over 0, 1, 2, 3.
    block = Cipher(algorithms.AES(bytes(range(32))), modes.ECB()).encryptor()
    expected = b"".join(block.update(counter.to_bytes(16, "big")) for counter in range(4))
    assert words.astype("<u8").tobytes() == expected
    assert asked == [32]


def test_uniforms_have_53_bits_and_keep_to_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    extremes = np.array([0, 2**64 - 1, 2**11], dtype=np.uint64)
    monkeypatch.setattr(Keystream, "words", lambda self, count: extremes[:count])
    assert Keystream().uniform(3).tolist() == [0.0, 1 - 2.0**-53, 2.0**-53]
    assert Keystream().uniform_positive(3).tolist() == [2.0**-53, 1.0, 2.0**-52]
    assert np.isfinite(gaussian(6, 1.0)).all()
