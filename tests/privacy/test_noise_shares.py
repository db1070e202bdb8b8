"""Shared noise: who carries how much, what each adversary learns, and that nothing of a sum is cut or misrounded."""

import math
from dataclasses import replace

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.privacy.accounting import calibrate, epsilon
from cotune.privacy.bounds import rdp_epsilon
from cotune.privacy.noise import gaussian
from cotune.privacy.noise_shares import (
    LEAST_STEPS,
    NoiseShares,
    exposures,
    fitting_sigmas,
    fitting_units,
    most_colluders,
    require_fine,
)
from cotune.privacy.terms import PrivacyTerms
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

# N = 10,000 units, expected batch 256, 300 rounds.
RATE, STEPS, DELTA = 256 / 10_000, 300, 1e-6
TABLE = [
    # n, c, d, one share, against the coordinator and c, an outsider, the coordinator and all others, sqrt(h)
    (5, 1, 1, 0.641, 3.0, 1.88, 11, 1.7),
    (10, 1, 1, 0.393, 3.0, 2.41, 44, 2.8),
    (10, 3, 1, 0.453, 3.0, 1.88, 29, 2.4),
    (50, 16, 1, 0.193, 3.0, 2.03, 280, 5.7),
]


@pytest.mark.parametrize(("n", "c", "d", "share", "colluding", "outsider", "alone", "gain"), TABLE)
def test_the_published_table(
    n: int, c: int, d: int, share: float, colluding: float, outsider: float, alone: float, gain: float
) -> None:
    """At sigma 1.11 and by Rényi accounting, as the table was made; its outsider sees the sum of all n shares."""
    shares = NoiseShares(n, c, d)
    assert shares.own(1.11) == pytest.approx(share, rel=0.005)
    assert math.sqrt(shares.honest) == pytest.approx(gain, rel=0.03)
    everybody = 1.11 * math.sqrt(n / shares.honest)
    for sigma, expected in ((1.11, colluding), (everybody, outsider), (shares.own(1.11), alone)):
        assert rdp_epsilon([(sigma, RATE, STEPS)], DELTA) == pytest.approx(expected, rel=0.035)


def test_noise_for_the_tables_budgets() -> None:
    """The table's multipliers come from the Rényi bound; numerical composition needs five percent less."""
    for budget, sigma in ((8.0, 0.73), (3.0, 1.11), (1.0, 2.27)):
        assert rdp_epsilon([(sigma, RATE, STEPS)], DELTA) == pytest.approx(budget, rel=0.02)
        assert 0.92 * sigma < calibrate(budget, DELTA, RATE, STEPS) < sigma


def test_three_epsilons_of_one_history() -> None:
    shares = NoiseShares(10, 3, 1)
    found = exposures(shares, 1.05, RATE, STEPS, DELTA)
    assert found.colluding == epsilon([(1.05, RATE, STEPS)], DELTA)
    assert found.outsider < found.colluding < found.alone
    # Not the table's: an outsider is promised the noise of n - d shares only.
    assert found.outsider == epsilon([(1.05 * math.sqrt(9 / 6), RATE, STEPS)], DELTA)
    lines = found.lines(shares)
    assert "3 other organizations, 9 or more of 10" in lines[0]
    assert lines[2].endswith("with all other organizations")
    assert [f"{value:.2f}" in line for value, line in zip((3.0, 2.05, 30.6), lines, strict=True)] != [False] * 3


@given(st.integers(3, 200), st.integers(0, 70), st.integers(0, 70), st.floats(0.1, 100))
def test_honest_survivors_carry_the_noise(n: int, c: int, d: int, sigma: float) -> None:
    if n - max(c, 1) - d < 1:
        with pytest.raises(UserError, match="to add noise"):
            NoiseShares(n, c, d)
        return
    shares = NoiseShares(n, c, d)
    # Whoever drops out and whoever colludes, the observer among them: these many shares are left in the sum.
    for dropped in range(d + 1):
        left = n - dropped - max(c, 1)
        assert left * shares.own(sigma) ** 2 >= sigma**2 * (1 - 1e-12)
    assert shares.own(sigma) <= sigma
    assert shares.everybody(sigma) >= sigma * (1 - 1e-12)


@pytest.mark.parametrize("wrong", [(2, 0, 0), (5, -1, 0), (5, 0, -1), (5, 4, 1), (3, 1, 2)])
def test_impossible_shares(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(UserError) as caught:
        NoiseShares(*wrong)
    assert "\n" not in str(caught.value)


def test_colluders_as_the_documents_have_them() -> None:
    rows = [(3, 3, 2), (4, 3, 1), (7, 5, 2), (10, 7, 3), (30, 21, 11), (200, 134, 67)]
    assert [most_colluders(n, t) for n, t, _ in rows] == [c for _, _, c in rows]


TERMS = PrivacyTerms(True, "patient", 3.0, DELTA, 1.05, 2.0, RATE, 4, 10.0, 0.1, "honest_majority", 10, 3, 1)


def test_terms_noise_one_share_and_state_the_sums() -> None:
    assert TERMS.noise_std == pytest.approx(1.05 * TERMS.sensitivity / math.sqrt(6))
    assert TERMS.alone.noise_std == pytest.approx(1.05 * TERMS.sensitivity)
    assert (TERMS.alone.trust, TERMS.alone.shares) == ("nobody", None)
    honest = sum(gaussian(40_000, TERMS.noise_std) for _ in range(6))
    # Seven standard deviations of the estimate.
    assert honest.std() == pytest.approx(1.05 * TERMS.sensitivity, rel=7 / math.sqrt(80_000))


@pytest.mark.parametrize(
    "changes",
    [
        {"trust": "somebody"},
        {"trust": "nobody"},
        {"colluders": 9},
        {"organizations": 0},
        {"enabled": False, "epsilon": 0.0, "delta": 0.0, "noise_multiplier": 0.0},
    ],
)
def test_terms_that_contradict_themselves(changes: dict) -> None:
    with pytest.raises(UserError) as caught:
        replace(TERMS, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("numbers", "budget"), [(10.0, 1.0), (1e6, 3.0), (3e9, 8.0)])
def test_the_range_holds_every_draw_of_a_run(numbers: float, budget: float) -> None:
    sigmas = fitting_sigmas(numbers, budget)
    chance = math.log(2 * numbers) + norm.logsf(sigmas)
    assert chance < math.log(1e-15) - budget
    # Not wider than it must be: half a standard deviation less would not do for the bound that it is made of.
    assert math.log(2 * numbers) - (sigmas - 0.5) ** 2 / 2 > math.log(1e-15) - budget


@pytest.mark.parametrize("units", [1, 8, 300, 20_000])
@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_no_sample_is_larger_than_its_bound(units: int, rate: float) -> None:
    most = fitting_units(units * rate, 1e4, 3.0)
    assert most >= units * rate
    assert binom.sf(math.floor(most), units, rate) * 1e4 * math.exp(3) <= 1e-15


def test_rounding_each_share_is_rounding_the_sum() -> None:
    """At the least number of steps, exactly and for means that differ: the reason why it is the least."""
    means, std = (0.37, -1.81, 5.0), LEAST_STEPS
    grid = np.arange(-80, 81)

    def rounded(mean: float, spread: float, triangles: int) -> np.ndarray:
        """The mass at each integer of a Gaussian plus so many triangular densities: one stochastic rounding each."""
        fine = np.linspace(-160, 160, 320 * 64 + 1)
        density = norm.pdf(fine, mean, spread)
        triangle = np.maximum(0, 1 - np.abs(np.arange(-64, 65) / 64)) / 64
        for _ in range(triangles):
            density = np.convolve(density, triangle, mode="same")
        return density[(grid + 160) * 64]

    sums = rounded(means[0], std, 1)
    for mean in means[1:]:
        sums = np.convolve(sums, rounded(mean, std, 1), mode="same")
    whole = rounded(sum(means), std * math.sqrt(3), 3)
    assert sums.sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(sums, whole, atol=1e-12)
    # And it would show if it were not so: a third of a step is too little.
    coarse = np.convolve(rounded(0.37, 0.3, 1), rounded(-1.81, 0.3, 1), mode="same")
    assert np.abs(coarse - rounded(0.37 - 1.81, 0.3 * math.sqrt(2), 2)).max() > 1e-3


def test_coarse_encodings_are_refused_with_the_width_that_does() -> None:
    def step(bits: int) -> float:
        return 2.0**-bits

    require_fine(3 * 2.0**-16, step, 16, 32)
    with pytest.raises(UserError, match="lane_bits=18 or more"):
        require_fine(3 * 2.0**-18, step, 16, 32)
    with pytest.raises(UserError, match="trust=nobody"):
        require_fine(3 * 2.0**-40, step, 16, 32)
