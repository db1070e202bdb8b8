"""Whatever an accountant does wrong, the number that is reported is a bound and never smaller; planted one by one."""

import math
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from cotune.privacy import accounting, bounds, composition
from cotune.privacy.accounting import accounted, calibrate, epsilon
from cotune.privacy.bounds import ORDERS, distinguishing_epsilon, rdp_curve, rdp_epsilon, zcdp_epsilon
from cotune.privacy.history import Segment

HISTORY: list[Segment] = [(0.854, 0.25, 15)]
DELTA = 8e-5
# Its true epsilon, by three accountants (see test_accounting.py).
TRUTH = 7.972


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    def clear() -> None:
        accounting._numbers.clear()
        accounting._calibrate.cache_clear()
        bounds.rdp_curve.cache_clear()
        bounds._segment_lower_bound.cache_clear()

    clear()
    yield
    clear()


@pytest.mark.parametrize("broken", [math.nan, -math.inf, -1.0, 0.0, 1.0, 1e9, math.inf])
def test_an_absurd_number_is_replaced_by_the_proven_bound(monkeypatch: pytest.MonkeyPatch, broken: float) -> None:
    monkeypatch.setattr(accounting, "composed_epsilon", lambda *_: broken)
    found = accounted(HISTORY, DELTA)
    assert found.epsilon == found.rdp == rdp_epsilon(HISTORY, DELTA) > TRUTH
    assert found.method == "rdp"


@pytest.mark.parametrize("error", [RuntimeError, ValueError, MemoryError, ZeroDivisionError, IndexError, OSError])
def test_a_failure_of_the_numerical_composition_is_replaced(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    prv = pytest.importorskip("opacus.accountants.analysis.prv")

    def fail(*_: object, **__: object) -> float:
        raise error

    monkeypatch.setattr(prv, "compose_heterogeneous", fail)
    assert accounted(HISTORY, DELTA) == accounting.Accounted(
        rdp_epsilon(HISTORY, DELTA), "rdp", rdp_epsilon(HISTORY, DELTA)
    )


def test_a_composition_that_hangs_is_given_up_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: object) -> float:
        release.wait()
        return 1.0

    with monkeypatch.context() as patch:
        patch.setattr(accounting, "_PATIENCE_SECONDS", 0.05)
        patch.setattr(accounting, "composed_epsilon", hang)
        assert epsilon(HISTORY, DELTA) == rdp_epsilon(HISTORY, DELTA)
        release.set()
    # A failure is not remembered: the next question gets the better answer.
    found = accounted(HISTORY, DELTA)
    assert found.method == "prv"
    assert TRUTH <= found.epsilon < found.rdp


@pytest.mark.parametrize("broken", [math.nan, math.inf, -1.0, 0.0, 5.0])
def test_an_absurd_renyi_bound_is_replaced_by_the_closed_form(monkeypatch: pytest.MonkeyPatch, broken: float) -> None:
    monkeypatch.setattr(accounting, "rdp_epsilon", lambda *_: broken)
    monkeypatch.setattr(accounting, "composed_epsilon", lambda *_: math.nan)
    found = accounted(HISTORY, DELTA)
    assert found.epsilon == found.rdp == zcdp_epsilon(HISTORY, DELTA) > TRUTH
    assert found.method == "zcdp"


def test_without_a_check_from_below_no_numerical_result_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError

    monkeypatch.setattr(accounting, "distinguishing_epsilon", fail)
    assert accounted(HISTORY, DELTA).method == "rdp"
    assert epsilon(HISTORY, DELTA) == rdp_epsilon(HISTORY, DELTA)


def test_all_of_them_broken_still_gives_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise MemoryError

    for name in ("composed_epsilon", "rdp_epsilon", "distinguishing_epsilon"):
        monkeypatch.setattr(accounting, name, fail)
    assert epsilon(HISTORY, DELTA) == zcdp_epsilon(HISTORY, DELTA) > TRUTH
    # And calibration stays on the safe side of it.
    sigma = calibrate(8.0, DELTA, 0.25, 15)
    assert zcdp_epsilon([(sigma, 0.25, 15)], DELTA) <= 8.0


def _raises(value: float) -> float:
    raise OverflowError


@pytest.mark.parametrize("order", [12.0, 63.0])
@pytest.mark.parametrize(
    "bend",
    [lambda value: -value, lambda value: value / 2, lambda value: math.nan, lambda value: math.inf, _raises],
)
def test_one_wrong_renyi_order_never_lowers_the_bound(
    monkeypatch: pytest.MonkeyPatch, order: float, bend: Callable[[float], float]
) -> None:
    """A minimum over orders would take the one that is too small."""
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    history, true = [(4.0, 0.1, 20)], rdp_epsilon([(4.0, 0.1, 20)], DELTA)
    whole = rdp.compute_rdp

    def one_wrong(*, q: float, noise_multiplier: float, steps: int, orders: float) -> float:
        value = float(whole(q=q, noise_multiplier=noise_multiplier, steps=steps, orders=orders))
        return bend(value) if orders == order else value

    rdp_curve.cache_clear()
    monkeypatch.setattr(rdp, "compute_rdp", one_wrong)
    assert rdp_epsilon(history, DELTA) >= true * (1 - 1e-9)


def test_histories_that_would_exhaust_memory_are_bounded() -> None:
    # Opacus alone asks for tens of gigabytes here.
    history = [(0.01, 0.25, 15)]
    assert distinguishing_epsilon(history, 1e-5) <= epsilon(history, 1e-5) <= zcdp_epsilon(history, 1e-5)


def test_many_mechanisms_are_bounded_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost is that of all their grids together."""
    monkeypatch.setattr(composition, "_MOST_WORK", 3 * 2**16)
    few = [(1.0 + number / 100, 0.25, 1) for number in range(2)]
    many = [(1.0 + number / 100, 0.25, 1) for number in range(30)]
    assert accounted(few, DELTA).method == "prv"
    assert accounted(many, DELTA).method == "rdp"


@pytest.mark.parametrize(("sigma", "rate"), [(0.3, 0.0256), (0.854, 0.25), (5.0, 0.5), (100.0, 1e-3), (1.0, 1.0)])
def test_integrals_agree_with_the_series_of_opacus(sigma: float, rate: float) -> None:
    """Two ways to the Rényi divergence at orders that are no integers; what is stored is never the smaller."""
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    for order in (1.01, 1.1, 2.5, 7.7, 10.9):
        series = float(rdp.compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=order))
        stored = rdp_curve(sigma, rate)[ORDERS.index(order)]
        assert stored == pytest.approx(series, rel=1e-8, abs=3e-10)
        assert stored >= series - 1e-13
    assert np.all(np.diff(rdp_curve(sigma, rate)) >= -1e-9)


@pytest.mark.parametrize(
    ("history", "delta"), [(HISTORY, DELTA), ([(1.11, 0.0256, 300)], 1e-6), ([(1.0, 1.0, 10), (2.0, 0.5, 3)], 1e-5)]
)
def test_removing_is_what_opacus_composes_and_adding_is_never_worse(history: list[Segment], delta: float) -> None:
    """Ours takes the worse of both; here that Opacus' one way, on Opacus' own grid, gives the same."""
    accountants = pytest.importorskip("opacus.accountants")
    accountant = accountants.PRVAccountant()
    accountant.history = list(history)
    error = rdp_epsilon(history, delta) / 500
    theirs = accountant.get_epsilon(delta, eps_error=error, delta_error=delta / 1000)
    assert composition.composed_epsilon(history, delta) == pytest.approx(theirs, abs=error / 5)
    grid = (composition._reach(history, sum(steps for *_, steps in history), delta / 1000), 1e-3)
    ways = [composition._one_way(history, grid, (delta, delta / 1000, error), removed) for removed in (True, False)]
    assert ways[1] <= ways[0] + error
    if all(rate == 1 for _, rate, _ in history):
        assert ways[1] == pytest.approx(ways[0], abs=error)


def test_adding_a_unit_is_the_mirror_of_removing_it() -> None:
    """P[loss of adding <= t] against drawing it: noise alone, through the likelihood ratio."""
    sigma, rate = 0.8, 0.3
    x = np.random.default_rng(1).normal(0.0, sigma, 200_000)
    losses = -np.log(1 - rate + rate * np.exp((2 * x - 1) / (2 * sigma**2)))
    at = np.array([-3.0, -1.0, 0.0, 0.2, 0.35, 0.4])
    drawn = (losses[:, None] <= at).mean(axis=0)
    assert np.abs(composition._added()(rate, sigma).cdf(at) - drawn).max() < 0.005
    assert composition._added()(rate, sigma).cdf(np.array([0.3567]))[0] == 1.0
