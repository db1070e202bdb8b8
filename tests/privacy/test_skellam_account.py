"""The account of Skellam noise: bounded by sums over all integers, near the Gaussian's, sound in any mixture."""

import math
from dataclasses import replace

import numpy as np
import pytest
from cotune.privacy import accounting, skellam_account
from cotune.privacy.accounting import accounted, calibrate, epsilon, steps_affordable
from cotune.privacy.bounds import ORDERS, rdp_curve, rdp_epsilon, zcdp_epsilon
from cotune.privacy.history import merged
from cotune.privacy.skellam import Grid, grid_for
from cotune.privacy.skellam_account import (
    INTEGER_ORDERS,
    Segment,
    divergence,
    sampled_curve,
    skellam_epsilon,
    unsampled_epsilon,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import skellam as reference

RATE, STEPS, DELTA = 256 / 10_000, 300, 1e-6
GRID = grid_for(1.0, 10_000)


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
    curve = sampled_curve(Exact(1.0, 1, float(move)), math.sqrt(variance) / move, rate, 1e-9)
    for order, add, remove in zip(orders, exact, removed, strict=True):
        found = curve[INTEGER_ORDERS.index(order)]
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
    curve = sampled_curve(grid, multiplier, rate, 1e-12)
    gaussian = rdp_curve(multiplier, rate)
    at = [ORDERS.index(order) for order in (2, 3, 8, 32)]
    ratio = curve[[INTEGER_ORDERS.index(order) for order in (2, 3, 8, 32)]] / gaussian[at]
    assert (ratio >= 1 - 1e-9).all()
    assert (ratio <= 1.06).all()


def test_an_epsilon_of_a_whole_run() -> None:
    """On the grid of some million coordinates: half a percent more noise than Rényi accounting asks of the Gaussian."""
    grid = grid_for(1.0, 2_000_000)
    segment = Segment(grid, 1.11, RATE, STEPS)
    assert skellam_epsilon([segment], DELTA) == pytest.approx(rdp_epsilon([(1.11, RATE, STEPS)], DELTA), rel=0.02)
    sigma = calibrate(3.0, DELTA, RATE, STEPS, grid=grid)
    assert 1.10 < sigma < 1.13
    assert skellam_epsilon([replace(segment, multiplier=sigma)], DELTA) <= 3.0
    assert skellam_epsilon([replace(segment, multiplier=sigma - 0.001)], DELTA) > 3.0
    half = replace(segment, steps=STEPS // 2)
    assert skellam_epsilon([half, half], DELTA) == pytest.approx(skellam_epsilon([segment], DELTA), rel=1e-12)
    assert skellam_epsilon([], DELTA) == skellam_epsilon([replace(segment, steps=0)], DELTA) == 0.0


@given(st.floats(0.3, 20), st.integers(1, 10**7), st.sampled_from([0.01, 0.3, 1.0]), st.integers(-8, 2))
@settings(max_examples=30, deadline=None)
def test_no_order_exceeds_the_closed_form(multiplier: float, dimension: int, rate: float, coarser: int) -> None:
    grid = replace(grid_for(1.0, dimension), step=grid_for(1.0, dimension).step * 2.0**coarser)
    rho = skellam_account._concentrated(Segment(grid, multiplier, rate, 1), 1e-12)
    curve = sampled_curve(grid, multiplier, rate, 1e-12)
    assert (curve <= np.array(INTEGER_ORDERS) * rho * (1 + 1e-9)).all()
    # And it is no smaller than that of a Gaussian of this noise.
    assert rho > 1 / (2 * multiplier**2)


@pytest.mark.parametrize("target", [0.03, 0.01])
def test_tiny_epsilons_are_within_reach(target: float) -> None:
    """Orders of hundreds alone would leave a floor that no noise gets below."""
    sigma = calibrate(target, DELTA, RATE, STEPS, grid=GRID)
    assert sigma < 1.25 * calibrate(target, DELTA, RATE, STEPS)
    assert skellam_epsilon([Segment(GRID, 5_000.0, 1.0, 10)], DELTA) < 0.004


@pytest.mark.parametrize("delta", [5e-324, 1e-300])
def test_a_tiny_delta_has_a_bound(delta: float) -> None:
    """Where no chance is left to rounding, it counts with the most that it can do."""
    found = epsilon([Segment(GRID, 2.0, 0.1, 10)], delta)
    assert epsilon([Segment(GRID, 2.0, 0.1, 10)], 1e-12) < found < math.inf


def test_noise_that_underflows_is_none() -> None:
    assert unsampled_epsilon([Segment(GRID, 1e-170, 0.5, 1)], DELTA) == math.inf
    assert epsilon([Segment(GRID, 1e-170, 0.5, 1)], DELTA) == math.inf


def test_gaussian_steps_alone_are_accounted_as_ever() -> None:
    """At integer orders only, so a little above the bound over all orders."""
    steps = [(1.11, RATE, STEPS), (0.8, 0.1, 20)]
    found, expected = skellam_epsilon([], DELTA, steps), rdp_epsilon(steps, DELTA)
    assert expected <= found <= expected * 1.05


@pytest.mark.parametrize("rate", [0.02, 0.3, 1.0])
def test_a_mixed_history_costs_as_much_as_a_gaussian_one_of_the_same_noise(rate: float) -> None:
    mixed = [(1.2, rate, 10), Segment(GRID, 1.2, rate, 10)]
    gaussian = rdp_epsilon([(1.2, rate, 20)], DELTA)
    found = accounted(mixed, DELTA)
    assert found.method == "rdp"
    assert gaussian <= found.epsilon <= gaussian * 1.06
    assert found == accounted(reversed(mixed), DELTA)
    # More than each part, less than both added up.
    parts = [accounted([part], DELTA).rdp for part in mixed]
    assert max(parts) < found.epsilon < sum(parts)


@given(
    st.lists(st.tuples(st.floats(0.5, 5), st.sampled_from([0.01, 0.3, 1.0]), st.integers(1, 50)), max_size=3),
    st.lists(
        st.tuples(st.floats(0.5, 5), st.sampled_from([0.01, 0.3, 1.0]), st.integers(1, 50)), min_size=1, max_size=3
    ),
)
@settings(max_examples=30, deadline=None)
def test_a_step_more_never_costs_less_and_the_closed_form_is_above(gaussian: list, discrete: list) -> None:
    segments = [Segment(GRID, *one) for one in discrete]
    whole = skellam_epsilon(segments, DELTA, gaussian)
    assert whole >= skellam_epsilon(segments[1:], DELTA, gaussian) * (1 - 1e-9)
    assert whole >= skellam_epsilon(segments, DELTA, gaussian[1:]) * (1 - 1e-9)
    assert unsampled_epsilon(segments, DELTA, gaussian) >= whole * (1 - 1e-9)


def test_the_closed_form_is_not_far_off_without_sampling() -> None:
    steps = [Segment(GRID, 4.0, 1.0, 50)]
    assert unsampled_epsilon(steps, DELTA) <= 1.1 * skellam_epsilon(steps, DELTA)
    assert unsampled_epsilon([], DELTA, [(4.0, 1.0, 50)]) == pytest.approx(
        zcdp_epsilon([(4.0, 1.0, 50)], DELTA), rel=0.02
    )
    assert unsampled_epsilon([], DELTA) == 0.0
    # Hardly any noise at all, and hardly any privacy loss.
    assert math.isfinite(unsampled_epsilon([Segment(GRID, 1e-3, 1.0, 1)], DELTA))
    assert 0 < unsampled_epsilon([Segment(GRID, 1e6, 1.0, 1)], DELTA) < 1e-3


def test_without_noise_in_one_step_there_is_no_bound() -> None:
    steps = [Segment(GRID, 1.0, 0.5, 1)]
    assert skellam_epsilon(steps, DELTA, [(0.0, 0.5, 1)]) == math.inf
    assert unsampled_epsilon(steps, DELTA, [(0.0, 0.5, 1)]) == math.inf
    assert epsilon([*steps, (0.0, 0.5, 1)], DELTA) == math.inf


def test_numerical_composition_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the integers for a Gaussian, and report too little."""
    asked = []
    monkeypatch.setattr(accounting, "composed_epsilon", lambda *given: asked.append(given) or 0.1)
    mixed = [(1.0, 0.5, 3), Segment(GRID, 1.0, 0.5, 3)]
    assert accounted(mixed, DELTA).epsilon == skellam_epsilon(mixed[1:], DELTA, mixed[:1])
    assert not asked


def _fails(*_given: object) -> float:
    raise ArithmeticError


@pytest.mark.parametrize("fault", [_fails, lambda *_given: math.nan], ids=["raises", "nan"])
def test_a_failure_falls_back_to_the_closed_form(fault: object, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = [(1.0, 0.5, 3), Segment(GRID, 1.0, 0.5, 3)]
    right = epsilon(mixed, DELTA)
    monkeypatch.setattr(accounting, "skellam_epsilon", fault)
    found = accounted(mixed, DELTA)
    assert (found.method, found.epsilon) == ("zcdp", unsampled_epsilon(mixed[1:], DELTA, mixed[:1]))
    assert found.epsilon > right


def test_an_order_that_is_no_number_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right, steps = skellam_account.sampled_curve, [Segment(GRID, 1.0, 0.1, 30)]
    before = skellam_epsilon(steps, DELTA)
    best = int(np.argmin([abs(order - 10) for order in INTEGER_ORDERS]))

    def broken(*given: object) -> np.ndarray:
        curve = right(*given).copy()
        curve[:best] = math.nan
        return curve

    monkeypatch.setattr(skellam_account, "sampled_curve", broken)
    assert skellam_epsilon(steps, DELTA) >= before
    monkeypatch.setattr(skellam_account, "sampled_curve", lambda *given: right(*given) * math.nan)
    assert skellam_epsilon(steps, DELTA) == unsampled_epsilon(steps, DELTA)


def test_equal_steps_are_one_segment_and_other_grids_are_not() -> None:
    other = replace(GRID, step=GRID.step / 2)
    history = [
        Segment(other, 1.0, 0.5, 1),
        (2.0, 0.5, 1),
        Segment(GRID, 1.0, 0.5, 2),
        (1.0, 0.5, 1),
        Segment(GRID, 1.0, 0.5, 3),
        Segment(GRID, 1.0, 0.5, 0),
    ]
    assert merged(history) == (
        (1.0, 0.5, 1),
        (2.0, 0.5, 1),
        Segment(other, 1.0, 0.5, 1),
        Segment(GRID, 1.0, 0.5, 5),
    )


def test_noise_and_steps_for_a_budget_after_a_history() -> None:
    history = [(3.0, 0.1, 20), Segment(GRID, 3.0, 0.1, 20)]
    sigma = calibrate(3.0, DELTA, 0.1, 40, history, GRID)
    assert epsilon([*history, Segment(GRID, sigma, 0.1, 40)], DELTA) <= 3.0
    assert epsilon([*history, Segment(GRID, sigma - 0.001, 0.1, 40)], DELTA) > 3.0
    fitting = steps_affordable(3.0, DELTA, sigma, 0.1, history, GRID)
    assert fitting >= 40
    assert epsilon([*history, Segment(GRID, sigma, 0.1, fitting)], DELTA) <= 3.0
    assert epsilon([*history, Segment(GRID, sigma, 0.1, fitting + 1)], DELTA) > 3.0


def test_what_no_mechanism_has() -> None:
    segment = Segment(grid_for(1.0, 10), 1.0, 0.5, 1)
    for wrong in (
        {"multiplier": 0.0},
        {"multiplier": math.inf},
        {"sample_rate": 0.0},
        {"sample_rate": 2},
        {"steps": -1},
    ):
        with pytest.raises(ValueError, match="cannot account"):
            replace(segment, **wrong)
    with pytest.raises(ValueError, match="delta"):
        skellam_epsilon([segment], 1.0)
