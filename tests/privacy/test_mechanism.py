"""The noise of a step: Gaussian as it was, or integers on the grid and nothing between them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.privacy.mechanism import noised
from cotune.privacy.skellam import grid_for
from cotune.privacy.terms import METRICS, PrivacyTerms

DIMENSION = 4_000 + len(METRICS)
PLAIN = PrivacyTerms(
    enabled=True,
    unit="patient",
    epsilon=8.0,
    delta=1e-3,
    noise_multiplier=1.5,
    max_grad_norm=2.0,
    sample_rate=0.5,
    records_per_unit=1,
    loss_cap=5.0,
    metrics_weight=0.1,
)
GRID = grid_for(PLAIN.sensitivity, DIMENSION)
INTEGERS = replace(PLAIN, mechanism="skellam", grid_step=GRID.step, dimension=DIMENSION)
SHARED = replace(INTEGERS, trust="honest_majority", organizations=6, colluders=1, dropouts=1)


@pytest.mark.parametrize("terms", [PLAIN, INTEGERS, SHARED], ids=["gaussian", "skellam", "shared"])
def test_noise_has_the_agreed_deviation_and_no_bias(terms: PrivacyTerms) -> None:
    total = np.random.default_rng(0).normal(size=DIMENSION)
    noise = np.stack([noised(total, terms) for _ in range(50)]) - total
    assert abs(noise.mean()) < 7 * terms.noise_std / math.sqrt(noise.size)
    assert noise.std() == pytest.approx(terms.noise_std, rel=7 / math.sqrt(2 * noise.size))
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 7 / math.sqrt(DIMENSION)


@pytest.mark.parametrize("terms", [INTEGERS, SHARED], ids=["alone", "shared"])
def test_every_number_is_a_whole_number_of_steps(terms: PrivacyTerms) -> None:
    """Whatever the sum was: nothing of its low bits is left."""
    total = np.random.default_rng(1).normal(size=DIMENSION) * math.pi
    found = noised(total, terms) / terms.grid_step
    assert np.array_equal(found, np.rint(found))
    assert found.dtype == np.float64


def test_gaussian_noise_is_not_on_the_grid() -> None:
    found = noised(np.zeros(DIMENSION), PLAIN) / GRID.step
    assert not np.array_equal(found, np.rint(found))


def test_shares_add_up_to_the_noise_that_is_accounted() -> None:
    """Variance of Skellam noise, of 4 honest shares: that of the honest sum, in whole steps."""
    assert SHARED.shares is not None
    honest = SHARED.shares.honest
    sums = np.stack([sum(noised(np.zeros(DIMENSION), SHARED) for _ in range(honest)) for _ in range(20)])
    expected = SHARED.noise_multiplier * SHARED.sensitivity
    assert sums.std() == pytest.approx(expected, rel=7 / math.sqrt(2 * sums.size))


def test_a_member_of_a_large_federation_can_train_alone() -> None:
    """Its own noise is then that of all shares; both fit, or neither does."""
    terms = replace(SHARED, grid_step=2.0**-19, noise_multiplier=3.9)
    grid = terms.alone.grid
    assert grid is not None
    assert grid.variance(terms.own_multiplier) < 2.0**44 < 4 * grid.variance(terms.noise_multiplier)
    assert len(noised(np.zeros(3), terms.alone)) == 3
    assert not terms.without_noise.enabled
    with pytest.raises(UserError, match="too large"):
        replace(terms, noise_multiplier=5.0)


def test_what_is_not_noised() -> None:
    with pytest.raises(ValueError, match="no noise"):
        noised(np.zeros(4), PLAIN.without_noise)
    with pytest.raises(ValueError, match="the account is about"):
        noised(np.zeros(DIMENSION + 1), INTEGERS)
    assert INTEGERS.without_noise == PLAIN.without_noise
    assert SHARED.alone == INTEGERS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grid_step": 0.3}, "privacy.grid_step is 0.3"),
        ({"grid_step": 0.0}, "privacy.grid_step is 0"),
        ({"dimension": 0}, "privacy.dimension is 0: set it to a number from 1"),
        (
            {"grid_step": 2.0**-33, "noise_multiplier": 1e4},
            "noise_multiplier is 10000.0: too small, or too large",
        ),
        ({"grid_step": 2.0**-300}, "power of two"),
        ({"grid_step": 2.0**900}, "power of two"),
        ({"grid_step": 2.0, "noise_multiplier": 1e-9}, "privacy.noise_multiplier is 1e-09"),
        ({"grid_step": math.nan}, "power of two"),
        ({"dimension": 10**400}, "privacy.dimension"),
        ({"metrics_weight": 1e200}, "privacy.metrics_weight"),
        ({"metrics_weight": math.nan}, "privacy.metrics_weight"),
        ({"epsilon": 1e300}, "privacy.epsilon"),
        ({"mechanism": "gaussian"}, "privacy.mechanism=skellam"),
        ({"mechanism": "laplace"}, "gaussian or skellam"),
        (
            {"enabled": False, "epsilon": 0.0, "delta": 0.0, "noise_multiplier": 0.0},
            "without privacy there is no noise",
        ),
    ],
)
def test_terms_that_contradict_each_other(change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(INTEGERS, **change)
