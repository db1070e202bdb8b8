"""The noise: its distribution, its tails, its independence. Bounds are wider than 6 standard errors."""

import copy
import math
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from cotune.privacy.keystream import Keystream
from cotune.privacy.noise import gaussian
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, norm

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
    # Two of so many float64 are equal once in eight million runs.
    assert len(np.unique(draws)) >= len(draws) - 1


@pytest.mark.parametrize("std", [0.01, 0.7, 40.0])
def test_kolmogorov_and_smirnov_at_any_deviation(std: float) -> None:
    draws = gaussian(100_000, std)
    assert kstest(draws, "norm", args=(0.0, std)).pvalue > 1e-9
    # The test can fail: 10% more or less noise is far outside.
    assert kstest(1.1 * draws, "norm", args=(0.0, std)).pvalue < 1e-9
    assert kstest(0.9 * draws, "norm", args=(0.0, std)).pvalue < 1e-9


def test_steps_are_independent() -> None:
    """Lags of one to five steps, in values and in sizes."""
    steps = np.stack([gaussian(2_000, 1.0) for _ in range(120)])
    for lag in range(1, 6):
        one, other = steps[lag:], steps[:-lag]
        assert abs((one * other).mean()) < 7 / math.sqrt(one.size)
        assert abs(((one**2 - 1) * (other**2 - 1)).mean()) < 7 * 2 / math.sqrt(one.size)


def _into(queue: object, stream: Keystream | None) -> None:
    found = gaussian(20_000, 1.0) if stream is None else stream.uniform(20_000)
    queue.put(found)  # type: ignore[attr-defined]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_draw_noise_of_their_own(start: str) -> None:
    context = get_context(start)
    queue = context.Queue()
    children = [context.Process(target=_into, args=(queue, None)) for _ in range(2)]
    for child in children:
        child.start()
    draws = [queue.get(timeout=120) for _ in children] + [gaussian(20_000, 1.0)]
    for child in children:
        child.join(60)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs((draws[one] * draws[other]).mean()) < 7 / math.sqrt(20_000)
        assert not np.intersect1d(draws[one], draws[other]).size


def test_threads_draw_noise_of_their_own() -> None:
    with ThreadPoolExecutor(4) as pool:
        draws = list(pool.map(lambda _: gaussian(1_000, 1.0).tobytes(), range(40)))
    assert len(set(draws)) == 40


def test_a_stream_that_lives_through_a_fork_is_not_repeated() -> None:
    stream = Keystream()
    stream.words(3)
    queue = get_context("fork").Queue()
    child = get_context("fork").Process(target=_into, args=(queue, stream))
    child.start()
    theirs = queue.get(timeout=60)
    child.join(60)
    ours = stream.uniform(20_000)
    assert not np.intersect1d(ours, theirs).size
    # In the process that made it, it goes on.
    before = stream._encryptor
    stream.words(1)
    assert stream._encryptor is before
    assert stream._process == os.getpid()


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.deepcopy])
def test_a_stream_cannot_be_duplicated(duplicate: object) -> None:
    with pytest.raises(TypeError):
        duplicate(Keystream())  # type: ignore[operator]


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
