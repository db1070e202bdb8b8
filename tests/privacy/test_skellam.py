"""Skellam noise: the very distribution, closed under sums, on a grid whose rounding is in the account."""

import math
from dataclasses import replace

import numpy as np
import pytest
from cotune.privacy.bounds import ORDERS, rdp_curve, rdp_epsilon
from cotune.privacy.skellam import (
    Grid,
    Segment,
    divergence,
    gaussian_equivalent,
    grid_for,
    on_grid,
    sampled_curve,
    skellam,
    skellam_epsilon,
    skellam_multiplier,
)
from cotune.secagg.encoding import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import chisquare
from scipy.stats import skellam as reference

# A test that is right fails once in a million runs.
RARE = 1e-6
RATE, STEPS, DELTA = 256 / 10_000, 300, 1e-6


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


@pytest.mark.parametrize("variance", [0.25, 7.0, 1e4, 1e6, 2.0**36])
def test_mean_and_variance(variance: float) -> None:
    draws = skellam(200_000, variance) / math.sqrt(variance)
    assert abs(draws.mean()) < 5 / math.sqrt(len(draws))
    # The variance of a sample's variance: (kurtosis - 1) / n, and a Skellam's kurtosis is 3 + 1 / mu.
    assert abs(draws.var() - 1) < 5 * math.sqrt((2 + 1 / variance) / len(draws))


def test_sums_of_shares_are_the_whole() -> None:
    shares = sum(skellam(200_000, variance) for variance in (0.5, 2.0, 2.0, 4.5))
    assert chisquare(*counted(np.asarray(shares), 9.0)).pvalue > RARE
    # And the test would see a whole that is a tenth off.
    assert chisquare(*counted(np.asarray(shares), 9.9)).pvalue < RARE


def test_draws_are_fresh_and_independent() -> None:
    one, two = skellam(100_000, 50.0), skellam(100_000, 50.0)
    assert not np.array_equal(one, two)
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / math.sqrt(len(one))
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 5 / math.sqrt(len(one))
    assert skellam(0, 1.0).shape == (0,)


@pytest.mark.parametrize(("size", "variance"), [(-1, 1.0), (1, 0.0), (1, math.nan), (1, 2.0**37)])
def test_impossible_draws(size: int, variance: float) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        skellam(size, variance)


def masses(variance: float, move: int) -> tuple[np.ndarray, np.ndarray]:
    """log P of the noise and of the noise moved, where float64 holds both."""
    grid = np.arange(-int(25 * math.sqrt(variance) + 200), int(25 * math.sqrt(variance) + 200))
    with np.errstate(divide="ignore"):
        p, q = (np.log(reference.pmf(grid - shift, variance / 2, variance / 2)) for shift in (0, move))
    held = (p > -600) & (q > -600)
    return p[held], q[held]


@pytest.mark.parametrize("variance", [1.0, 30.0, 2_000.0])
@pytest.mark.parametrize("move", [1, 3])
def test_the_divergence_is_bounded_and_the_bound_is_sharp(variance: float, move: int) -> None:
    """Against the sum over all integers, in one dimension."""
    p, q = masses(variance, move)
    for order in (2, 3, 8, 20):
        exact = logsumexp(order * q + (1 - order) * p) / (order - 1)
        bound = float(divergence(np.array([float(order)]), move, move, variance)[0])
        assert exact <= bound * (1 + 1e-9)
        if variance >= 30 and order <= 8:
            assert bound <= exact * 1.2
        if variance >= 2_000:
            assert exact == pytest.approx(order * move**2 / (2 * variance), rel=0.01)


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_sampling_amplifies_as_the_sum_over_all_integers_says(rate: float) -> None:
    """Both directions, in one dimension and without rounding: adding a unit is the worse, and is bounded."""
    variance, move = 36.0, 6
    p, q = masses(variance, move)
    mixed = q if rate == 1 else np.logaddexp(math.log1p(-rate) + p, math.log(rate) + q)
    orders = (2, 3, 8, 20)
    exact = [logsumexp(order * mixed + (1 - order) * p) / (order - 1) for order in orders]
    removed = [logsumexp(order * p + (1 - order) * mixed) / (order - 1) for order in orders]
    # A grid of one coordinate whose sensitivity leaves a bound of exactly `move`, up to the chance.
    curve = sampled_curve(Segment(Exact(1.0, 1, float(move)), math.sqrt(variance) / move, rate, 1), 1e-9)
    for order, add, remove in zip(orders, exact, removed, strict=True):
        found = curve[order - 2]
        assert remove <= add * (1 + 1e-9)
        assert add <= found * (1 + 1e-9)
        # Far out, where high orders look, Skellam noise tells less than a Gaussian; the bound does not use that.
        assert order > 3 or found <= add * 1.2


class Exact(Grid):
    """A vector that is integral already."""

    def norms(self, chance: float) -> tuple[float, float]:
        return self.sensitivity, self.sensitivity


@pytest.mark.parametrize("rate", [0.0256, 0.3, 1.0])
@pytest.mark.parametrize("multiplier", [0.7, 1.1, 5.0])
def test_close_to_the_gaussian_of_the_same_variance(rate: float, multiplier: float) -> None:
    grid = grid_for(1.5, 1_000_000)
    curve = sampled_curve(Segment(grid, multiplier, rate, 1), 1e-12)
    gaussian = rdp_curve(multiplier, rate)
    at = [ORDERS.index(order) for order in (2, 3, 8, 32)]
    ratio = curve[[0, 1, 6, 30]] / gaussian[at]
    assert (ratio >= 1 - 1e-9).all()
    assert (ratio <= 1.06).all()


def test_an_epsilon_of_a_whole_run() -> None:
    """On the grid of some million coordinates: half a percent more noise than Rényi accounting asks of the Gaussian."""
    grid = grid_for(1.0, 2_000_000)
    segment = Segment(grid, 1.11, RATE, STEPS)
    assert skellam_epsilon([segment], DELTA) == pytest.approx(rdp_epsilon([(1.11, RATE, STEPS)], DELTA), rel=0.02)
    sigma = skellam_multiplier(grid, 3.0, DELTA, RATE, STEPS)
    assert 1.10 < sigma < 1.13
    assert skellam_epsilon([replace(segment, multiplier=sigma)], DELTA) <= 3.0
    assert skellam_epsilon([replace(segment, multiplier=sigma - 0.001)], DELTA) > 3.0
    half = replace(segment, steps=STEPS // 2)
    assert skellam_epsilon([half, half], DELTA) == pytest.approx(skellam_epsilon([segment], DELTA), rel=1e-12)
    assert skellam_epsilon([], DELTA) == skellam_epsilon([replace(segment, steps=0)], DELTA) == 0.0


@given(st.floats(0.3, 20), st.integers(1, 10**7), st.sampled_from([0.01, 0.3, 1.0]), st.integers(-8, 2))
@settings(max_examples=30, deadline=None)
def test_the_equivalent_gaussian_is_no_safer(multiplier: float, dimension: int, rate: float, coarser: int) -> None:
    grid = replace(grid_for(1.0, dimension), step=grid_for(1.0, dimension).step * 2.0**coarser)
    segment = Segment(grid, multiplier, rate, 1)
    sigma = gaussian_equivalent(segment, 1e-12)
    assert sigma < multiplier
    gaussian = rdp_curve(sigma, rate)
    curve = sampled_curve(segment, 1e-12)
    for order in (2, 3, 10, 63):
        expected = gaussian[ORDERS.index(order)]
        if math.isfinite(expected):
            assert curve[order - 2] <= expected * (1 + 1e-6)


@pytest.mark.parametrize("wrong", [(0.3, 1, 1.0), (0.0, 1, 1.0), (math.inf, 1, 1.0), (0.5, 0, 1.0), (0.5, 1, 0.0)])
def test_grids_that_are_none(wrong: tuple[float, int, float]) -> None:
    with pytest.raises(ValueError, match="no grid"):
        Grid(*wrong)


def test_what_no_mechanism_has() -> None:
    segment = Segment(grid_for(1.0, 10), 1.0, 0.5, 1)
    for wrong in (replace(segment, multiplier=0.0), replace(segment, sample_rate=0.0), replace(segment, sample_rate=2)):
        with pytest.raises(ValueError, match="cannot account"):
            skellam_epsilon([wrong], DELTA)
    with pytest.raises(ValueError, match="delta"):
        skellam_epsilon([segment], 1.0)
    with pytest.raises(ValueError, match="out of reach"):
        skellam_multiplier(replace(segment.grid, step=2.0**20), 0.1, DELTA, 1.0, 10)


def test_rounding_is_unbiased_and_leaves_integers_alone() -> None:
    values = np.array([-1.75, -0.5, 0.0, 0.3, 2.999, 7.0]) * 2.0**-9
    rounded = np.stack([on_grid(values, 2.0**-9) for _ in range(4_000)])
    assert set(rounded[:, 5]) == {7}
    assert set(rounded[:, 0]) == {-2, -1}
    np.testing.assert_allclose(rounded.mean(axis=0), values * 2.0**9, atol=5 * 0.5 / math.sqrt(4_000))
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
