"""Epsilon against independent accountants, against proofs, and against its own promises."""

import math

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.privacy import accounting
from cotune.privacy.accounting import calibrate, epsilon, steps_affordable
from cotune.privacy.bounds import Segment, distinguishing_epsilon, rdp_epsilon, zcdp_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr

# Few different mechanisms, so that their Rényi curves are computed once.
segment = st.tuples(st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from([0.01, 0.25, 1.0]), st.integers(0, 100))
histories = st.lists(segment, min_size=1, max_size=2)
deltas = st.sampled_from([1e-3, 1e-5, 1e-7])


def analytic_gaussian(history: list[Segment], delta: float) -> float:
    """Exact epsilon where every rate is 1 (Balle and Wang 2018, theorem 8), by the distance mu of the composition."""
    mu = math.sqrt(sum(steps / sigma**2 for sigma, _, steps in history))

    def excess(value: float) -> float:
        return float(np.exp(log_ndtr(mu / 2 - value / mu)) - np.exp(value + log_ndtr(-mu / 2 - value / mu)) - delta)

    return 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, 10_000.0, xtol=1e-10))


# dp-accounting 0.6.0: PLDAccountant(ADD_OR_REMOVE_ONE) over PoissonSampledDpEvent(q, GaussianDpEvent(sigma)).
# It takes the worse of adding and removing, which Opacus' composition does not.
PLD = [
    ([(0.854, 0.25, 15)], 8e-5, 7.972079881084087),
    ([(1.0, 1.0, 10)], 1e-5, 17.856586848893034),
    ([(1.11, 0.0256, 300)], 1e-6, 2.6755392055856073),
    ([(1.0, 0.25, 15), (0.91, 0.25, 15), (2.0, 0.5, 3)], 1e-5, 10.950722556542775),
    ([(0.3, 0.032, 94)], 1e-5, 48.84402818343473),
    ([(5.0, 0.01, 1000)], 1e-6, 0.2490784387750416),
    ([(2.0, 0.1, 10), (1.5, 1.0, 2)], 1e-5, 4.170733576152658),
]


@pytest.mark.parametrize(("history", "delta", "reference"), PLD)
def test_agrees_with_dp_accounting_from_above(history: list[Segment], delta: float, reference: float) -> None:
    # The reference discretizes upwards as well: equal up to the two grids.
    assert reference * 0.999 <= epsilon(history, delta) <= reference * 1.01


@settings(max_examples=25, deadline=None)
@given(history=st.lists(st.tuples(st.floats(0.4, 20), st.just(1.0), st.integers(1, 200)), max_size=3), delta=deltas)
def test_agrees_with_the_exact_gaussian_where_everybody_joins(history: list[Segment], delta: float) -> None:
    if not history:
        return
    exact = analytic_gaussian(history, delta)
    found = epsilon(history, delta)
    assert found >= exact * (1 - 1e-6)
    if exact < 50:
        assert found <= max(exact * 1.02, exact + 0.02)
    assert distinguishing_epsilon(history, delta) <= exact * (1 + 1e-6)
    assert rdp_epsilon(history, delta) >= exact * (1 - 1e-6)
    assert zcdp_epsilon(history, delta) >= exact * (1 - 1e-6)


@settings(max_examples=12, deadline=None)
@given(history=histories, delta=deltas)
def test_lies_between_what_is_proven(history: list[Segment], delta: float) -> None:
    used = [part for part in history if part[2]]
    found = epsilon(history, delta)
    assert distinguishing_epsilon(used, delta) <= found <= rdp_epsilon(used, delta)


@settings(max_examples=6, deadline=None)
@given(history=histories, more=segment, delta=deltas)
def test_more_steps_never_cost_less(history: list[Segment], more: Segment, delta: float) -> None:
    # Each of the two results may lie above the truth by its own grid error.
    whole = epsilon([*history, more], delta)
    assert whole >= epsilon(history, delta) - 0.1 - 0.1 * whole


@settings(max_examples=6, deadline=None)
@given(
    part=st.tuples(st.sampled_from([0.5, 4.0]), st.sampled_from([0.01, 1.0]), st.integers(2, 100)),
    cut=st.floats(0, 1),
    delta=deltas,
)
def test_segments_may_be_split_and_reordered(part: Segment, cut: float, delta: float) -> None:
    sigma, rate, steps = part
    first = int(steps * cut)
    split = [(sigma, rate, first), (9.0, 0.5, 3), (sigma, rate, steps - first)]
    assert epsilon(split, delta) == epsilon([(9.0, 0.5, 3), part], delta)


def test_nothing_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon([], 1e-5) == 0.0
    assert epsilon([(1.0, 0.5, 0)], 1e-5) == 0.0
    assert math.isinf(epsilon([(0.0, 0.5, 1)], 1e-5))


@pytest.mark.parametrize(
    ("part", "delta"),
    [
        ((-1.0, 0.5, 1), 1e-5),
        ((math.nan, 0.5, 1), 1e-5),
        ((math.inf, 0.5, 1), 1e-5),
        ((1.0, 0.0, 1), 1e-5),
        ((1.0, 1.1, 1), 1e-5),
        ((1.0, 0.5, -1), 1e-5),
        ((1.0, 0.5, 1), 0.0),
        ((1.0, 0.5, 1), 1.0),
    ],
)
def test_impossible_mechanisms_are_refused(part: Segment, delta: float) -> None:
    with pytest.raises(ValueError, match=r"delta|account"):
        epsilon([part], delta)


@pytest.mark.parametrize("broken", [math.nan, -1.0, 0.0, 1.0, 1e9, math.inf])
def test_an_absurd_numerical_result_is_replaced_by_the_proven_bound(
    monkeypatch: pytest.MonkeyPatch, broken: float
) -> None:
    accounting._epsilon.cache_clear()
    monkeypatch.setattr(accounting, "_numerical", lambda *_: broken)
    history = [(0.854, 0.25, 15)]
    assert epsilon(history, 8e-5) == rdp_epsilon(history, 8e-5) > 8
    accounting._epsilon.cache_clear()


@pytest.mark.parametrize("error", [RuntimeError, ValueError, MemoryError, ZeroDivisionError, IndexError])
def test_a_failure_of_the_numerical_composition_is_replaced(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    accountants = pytest.importorskip("opacus.accountants")

    def fail(*_: object, **__: object) -> float:
        raise error

    accounting._epsilon.cache_clear()
    monkeypatch.setattr(accountants.PRVAccountant, "get_epsilon", fail)
    assert epsilon([(1.3, 0.25, 15)], 8e-5) == rdp_epsilon([(1.3, 0.25, 15)], 8e-5)
    accounting._epsilon.cache_clear()


def test_histories_that_would_exhaust_memory_are_bounded() -> None:
    # Opacus alone asks for tens of gigabytes here.
    history = [(0.01, 0.25, 15)]
    assert distinguishing_epsilon(history, 1e-5) <= epsilon(history, 1e-5) <= zcdp_epsilon(history, 1e-5)


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"),
    [
        (8.0, 8e-5, 0.25, 15),
        (3.0, 1e-6, 0.0256, 300),
        (0.1, 1e-5, 1.0, 15),
        (30.0, 1e-5, 1.0, 1),
    ],
)
def test_calibration_is_within_the_budget_and_one_step_from_breaking_it(
    target: float, delta: float, rate: float, steps: int
) -> None:
    sigma = calibrate(target, delta, rate, steps)
    assert epsilon([(sigma, rate, steps)], delta) <= target
    assert epsilon([(sigma - 0.001, rate, steps)], delta) > target
    assert sigma == round(sigma, 3)


def test_what_cannot_be_calibrated_says_so() -> None:
    for target in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="positive"):
            calibrate(target, 1e-5, 0.25, 15)
    with pytest.raises(ValueError, match="0 steps"):
        calibrate(1.0, 1e-5, 0.25, 0)
    with pytest.raises(UserError, match="out of reach"):
        calibrate(1e-6, 1e-5, 1.0, 1000)


def test_steps_affordable_is_the_last_that_fits() -> None:
    sigma = calibrate(8.0, 8e-5, 0.25, 15)
    assert steps_affordable(8.0, 8e-5, sigma, 0.25) == 15
    assert steps_affordable(8.0, 8e-5, sigma, 0.25, [(sigma, 0.25, 10)]) == 5
    assert steps_affordable(8.0, 8e-5, sigma, 0.25, [(sigma, 0.25, 16)]) == 0
    assert steps_affordable(0.1, 8e-5, 0.5, 0.25) == 0
