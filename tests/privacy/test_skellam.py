"""Skellam noise: the very distribution, closed under sums, on a grid whose rounding has a bound."""

import math

import numpy as np
import pytest
from cotune.privacy.skellam import Grid, grid_for, on_grid, skellam
from cotune.secagg.encoding import Encoding
from scipy.stats import chisquare
from scipy.stats import skellam as reference

# A test that is right fails less than once in a hundred million runs: cells of few draws have a heavier tail than this.
RARE = 1e-10


def counted(draws: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Observed and expected counts, with both tails joined where fewer than 20 are expected."""
    reach = int(reference.isf(20 / len(draws), variance / 2, variance / 2))
    inside = np.clip(draws, -reach, reach)
    observed = np.bincount(inside + reach, minlength=2 * reach + 1)
    expected = reference.pmf(np.arange(-reach, reach + 1), variance / 2, variance / 2)
    expected[[0, -1]] = reference.cdf(-reach, variance / 2, variance / 2)
    return observed, expected / expected.sum() * len(draws)


@pytest.mark.parametrize("variance", [0.25, 1.0, 9.0, 400.0, 9_999.0, 10_001.0])
def test_the_distribution_is_skellam(variance: float) -> None:
    assert chisquare(*counted(skellam(200_000, variance), variance)).pvalue > RARE


@pytest.mark.parametrize("variance", [0.25, 7.0, 1e4, 1e6, 2.0**36, 3.3 * 2.0**36])
def test_mean_and_variance(variance: float) -> None:
    draws = skellam(200_000, variance) / math.sqrt(variance)
    assert abs(draws.mean()) < 7 / math.sqrt(len(draws))
    # The variance of a sample's variance: (kurtosis - 1) / n, and a Skellam's kurtosis is 3 + 1 / mu.
    assert abs(draws.var() - 1) < 7 * math.sqrt((2 + 1 / variance) / len(draws))


def test_sums_of_shares_are_the_whole() -> None:
    shares = sum(skellam(200_000, variance) for variance in (0.5, 2.0, 2.0, 4.5))
    assert chisquare(*counted(np.asarray(shares), 9.0)).pvalue > RARE
    # And the test would see a whole that is a tenth off.
    assert chisquare(*counted(np.asarray(shares), 9.9)).pvalue < RARE


def test_draws_are_fresh_and_independent() -> None:
    one, two = skellam(100_000, 50.0), skellam(100_000, 50.0)
    assert not np.array_equal(one, two)
    assert abs(np.corrcoef(one, two)[0, 1]) < 7 / math.sqrt(len(one))
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 7 / math.sqrt(len(one))
    assert skellam(0, 1.0).shape == (0,)


@pytest.mark.parametrize(("size", "variance"), [(-1, 1.0), (1, 0.0), (1, math.nan), (1, 2.0**45)])
def test_impossible_draws(size: int, variance: float) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        skellam(size, variance)


@pytest.mark.parametrize(
    "wrong",
    [
        (0.3, 1, 1.0),
        (0.0, 1, 1.0),
        (math.inf, 1, 1.0),
        (0.5, 0, 1.0),
        (0.5, 1, 0.0),
        (2.0, 1, 1.0),
        (2.0**-41, 1, 1.0),
        (0.5, 2**41, 1.0),
        (0.5, 1, math.inf),
    ],
)
def test_grids_that_are_none(wrong: tuple[float, int, float]) -> None:
    with pytest.raises(ValueError, match="no grid"):
        Grid(*wrong)


def test_rounding_is_unbiased_and_leaves_integers_alone() -> None:
    values = np.array([-1.75, -0.5, 0.0, 0.3, 2.999, 7.0]) * 2.0**-9
    rounded = np.stack([on_grid(values, 2.0**-9) for _ in range(4_000)])
    assert set(rounded[:, 5]) == {7}
    assert set(rounded[:, 0]) == {-2, -1}
    np.testing.assert_allclose(rounded.mean(axis=0), values * 2.0**9, atol=7 * 0.5 / math.sqrt(4_000))
    for wrong in (math.nan, math.inf, 2.0**53):
        with pytest.raises(ValueError, match="too large"):
            on_grid(np.array([wrong]), 1.0)


def test_a_units_change_after_rounding_is_within_its_norm() -> None:
    """With one U for both sums, the change is the unit rounded by itself: within its norm, and no shorter by much."""
    rng, dimension = np.random.default_rng(5), 2_000
    grid = grid_for(1.0, dimension)
    others, unit = rng.normal(size=dimension), rng.normal(size=dimension)
    unit *= grid.sensitivity / np.linalg.norm(unit)
    l2, l1 = grid.norms(1e-6)
    lengths = []
    for _ in range(300):
        uniform = rng.random(dimension)
        change = np.floor((others + unit) / grid.step + uniform) - np.floor(others / grid.step + uniform)
        lengths.append(np.linalg.norm(change))
        assert np.abs(change).sum() <= l1
    assert max(lengths) <= l2
    assert np.mean(lengths) > grid.sensitivity / grid.step
    assert l2 < 1.03 * max(lengths)


@pytest.mark.parametrize("lane_bits", [8, 16, 21, 24, 32])
@pytest.mark.parametrize("exponent", [-20, -9, 0, 3])
def test_the_encoding_sends_integers_as_they_are(lane_bits: int, exponent: int) -> None:
    """Where an encoding's step is a power of two, multiples of it are sent without any rounding, to the last level."""
    step = 2.0**exponent
    levels = Encoding(((1, 1.0),), 5, lane_bits).levels
    integers = np.unique(np.linspace(-levels, levels, 5_000).astype(np.int64))
    encoding = Encoding(((len(integers), levels * step),), 5, lane_bits)
    assert encoding.steps()[0] == step
    words = np.zeros(encoding.words, dtype=np.uint64)
    total = np.zeros_like(words)
    for _ in range(3):
        assert encoding.encode(integers * step, words) == 0
        total += words
    np.testing.assert_array_equal(encoding.decode(total, 3), 3 * integers * step)
