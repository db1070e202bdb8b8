"""Epsilon against independent accountants, published values and proofs, and against its own promises."""

import math
import time

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.privacy.accounting import accounted, calibrate, epsilon, rounded, rounded_delta, steps_affordable
from cotune.privacy.bounds import ORDERS, distinguishing_epsilon, rdp_curve, rdp_epsilon, zcdp_epsilon
from cotune.privacy.history import Segment
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


# The third opinion. dp-accounting 0.6.0: PLDAccountant(ADD_OR_REMOVE_ONE) over PoissonSampledDpEvent(q,
# GaussianDpEvent(sigma)). Its numbers and not itself: it needs an older attrs than everything else here.
PLD = [
    ([(0.854, 0.25, 15)], 8e-5, 7.972079881084087),
    ([(1.0, 1.0, 10)], 1e-5, 17.856586848893034),
    ([(1.11, 0.0256, 300)], 1e-6, 2.6755392055856073),
    ([(1.0, 0.25, 15), (0.91, 0.25, 15), (2.0, 0.5, 3)], 1e-5, 10.950722556542775),
    ([(0.3, 0.032, 94)], 1e-5, 48.84402818343473),
    ([(5.0, 0.01, 1000)], 1e-6, 0.2490784387750416),
    ([(2.0, 0.1, 10), (1.5, 1.0, 2)], 1e-5, 4.170733576152658),
    ([(0.503, 0.001, 100), (2.086, 0.001, 100), (1.089, 0.3, 100)], 1e-8, 25.335828004796465),
    ([(0.324, 0.001, 10)], 1e-5, 6.720320756922617),
    ([(0.441, 0.5, 100), (16.564, 0.001, 1)], 1e-3, 149.8361809608235),
    ([(4.369, 0.5, 1), (0.518, 0.1, 1)], 1e-8, 9.139794136360221),
]


@pytest.mark.parametrize(("history", "delta", "reference"), PLD)
def test_agrees_with_dp_accounting_from_above(history: list[Segment], delta: float, reference: float) -> None:
    # The reference discretizes upwards as well: equal up to the two grids.
    found = accounted(history, delta)
    assert found.method == "prv"
    assert reference * 0.999 <= found.epsilon <= reference * 1.01
    assert found.epsilon <= found.rdp


@pytest.mark.parametrize(("history", "delta", "reference"), PLD[:3])
def test_the_third_opinion_still_says_so(history: list[Segment], delta: float, reference: float) -> None:
    """Only where dp-accounting happens to be installed."""
    dp = pytest.importorskip("dp_accounting")
    pld = pytest.importorskip("dp_accounting.pld")
    accountant = pld.PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for sigma, rate, steps in history:
        accountant.compose(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)), steps)
    assert accountant.get_epsilon(delta) == pytest.approx(reference, rel=1e-6)


# Epsilon as printed, at delta 1e-5, all by the moments accountant: before better conversions and PRV.
PUBLISHED = [
    # Abadi et al. 2016, section 5.1, figure 2: q = 0.01, sigma = 4, 100 epochs of 1/q steps.
    ((4.0, 0.01, 10_000), 1.26),
    # TensorFlow Privacy, tutorials/README.md, MNIST with batches of 256: 60, 30 and 10 epochs.
    ((1.12, 256 / 60_000, 60 * 60_000 // 256), 2.92),
    ((0.6, 256 / 60_000, 30 * 60_000 // 256), 9.74),
    ((1.2, 256 / 60_000, 10 * 60_000 // 256), 1.20),
    # Bu et al. 2020 (Deep learning with Gaussian differential privacy), figure 4: 20 and 70 epochs.
    ((1.3, 256 / 60_000, 20 * 60_000 // 256), 1.34),
    ((0.7, 256 / 60_000, 70 * 60_000 // 256), 8.68),
]


@pytest.mark.parametrize(("part", "printed"), PUBLISHED)
def test_published_values_are_met_with_their_accountant_and_improved_with_ours(part: Segment, printed: float) -> None:
    sigma, rate, steps = part
    # The conversion of the time: Mironov 2017, proposition 3.
    orders = np.array(ORDERS)
    classical = float(np.nanmin(steps * rdp_curve(sigma, rate) - math.log(1e-5) / (orders - 1)))
    assert classical == pytest.approx(printed, abs=0.015)
    found = accounted([part], 1e-5)
    assert 0.6 * printed < found.epsilon <= found.rdp < printed


# N = 2000, q = 0.032: PRV and RDP, measured with Opacus 1.6 before this code was.
@pytest.mark.parametrize(("part", "prv", "rdp"), [((0.3, 0.032, 94), 48.9, 56.5), ((1.0, 1.0, 10), 17.9, 19.1)])
def test_values_measured_before(part: Segment, prv: float, rdp: float) -> None:
    found = accounted([part], 1e-5)
    assert found.epsilon == pytest.approx(prv, abs=0.06)
    assert found.rdp == pytest.approx(rdp, abs=0.06)


# The noise that N = 10,000, a batch of 256 and 300 steps need at delta 1e-6, found before by RDP. Numerical composition
# needs less.
@pytest.mark.parametrize(("target", "sigma"), [(8.0, 0.73), (3.0, 1.11), (1.0, 2.27)])
def test_noise_calibrated_before(target: float, sigma: float) -> None:
    assert rdp_epsilon([(sigma, 0.0256, 300)], 1e-6) == pytest.approx(target, rel=0.02)
    assert 0.9 * sigma < calibrate(target, 1e-6, 0.0256, 300) < sigma


@settings(max_examples=10, deadline=None)
@given(history=st.lists(st.tuples(st.floats(0.4, 20), st.just(1.0), st.integers(1, 60)), max_size=3), delta=deltas)
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
    """Round by round, in the rounds that a member was in, is one history."""
    sigma, rate, steps = part
    first = int(steps * cut)
    split = [(sigma, rate, first), (9.0, 0.5, 3), (sigma, rate, steps - first)]
    assert epsilon(split, delta) == epsilon([(9.0, 0.5, 3), part], delta)


def test_a_round_missed_is_not_paid_for() -> None:
    terms = (0.854, 0.25, 1)
    assert epsilon([terms] * 12, 8e-5) == epsilon([(0.854, 0.25, 12)], 8e-5) < epsilon([(0.854, 0.25, 15)], 8e-5)


def test_nothing_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon([], 1e-5) == 0.0
    assert accounted([(1.0, 0.5, 0)], 1e-5).method == "none"
    assert math.isinf(epsilon([(0.0, 0.5, 1)], 1e-5))


@pytest.mark.parametrize("sigma", [5e-324, 1e-200, 1e-3, 0.02, 1e4, 1e9, 1e200])
@pytest.mark.parametrize("rate", [1e-12, 0.5, 1.0])
def test_any_noise_gets_a_number_between_the_proofs(sigma: float, rate: float) -> None:
    found = epsilon([(sigma, rate, 10)], 1e-5)
    assert found >= 0
    assert found <= zcdp_epsilon([(sigma, rate, 10)], 1e-5)
    if sigma <= 0.02 and rate >= 0.5:
        assert found > 1_000
    if sigma >= 1e4:
        assert found < 0.1


@pytest.mark.parametrize("part", [(1.0, 0.01, 1_000_000), (5.0, 1.0, 1_000_000), (40.0, 0.01, 1_000_000)])
def test_a_million_steps_are_quick(part: Segment) -> None:
    epsilon([(1.0, 0.5, 1)], 1e-5)
    started = time.process_time()
    found = accounted([part], 1e-5)
    assert time.process_time() - started < 1.0
    assert found.method == "rdp"
    assert distinguishing_epsilon([part], 1e-5) <= found.epsilon


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


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps", "history"),
    [
        (8.0, 8e-5, 0.25, 15, []),
        (3.0, 1e-6, 0.0256, 300, []),
        (0.1, 1e-5, 1.0, 15, []),
        (30.0, 1e-5, 1.0, 1, []),
        (8.0, 8e-5, 0.25, 10, [(0.854, 0.25, 5)]),
        (2.0, 1e-5, 0.01, 1_000_000, []),
    ],
)
def test_calibration_is_within_the_budget_and_one_step_from_breaking_it(
    target: float, delta: float, rate: float, steps: int, history: list[Segment]
) -> None:
    sigma = calibrate(target, delta, rate, steps, history)
    assert epsilon([*history, (sigma, rate, steps)], delta) <= target
    assert epsilon([*history, (sigma - 0.001, rate, steps)], delta) > target
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


@given(value=st.floats(0, 1e6))
def test_a_person_never_reads_less_than_was_spent_nor_more_than_is_left(value: float) -> None:
    assert float(rounded(value)) >= value - 1e-8
    assert float(rounded(value, up=False)) <= value + 1e-8
    assert abs(float(rounded(value)) - value) <= 0.001 + 1e-9


@given(st.floats(1e-12, 0.5))
def test_a_printed_delta_is_never_smaller_than_the_delta(delta: float) -> None:
    printed = float(rounded_delta(delta))
    assert delta <= printed <= delta * 1.1


@pytest.mark.parametrize(("delta", "text"), [(1 / 7000, "1.5e-04"), (1e-5, "1.0e-05"), (9.96e-5, "1.0e-04")])
def test_a_delta_for_a_person(delta: float, text: str) -> None:
    assert rounded_delta(delta) == text
