"""DP-FedSGD sends exactly one private step and publishes the running average."""

import numpy as np
import pytest
from cotune.adapter.part import Part
from cotune.strategies.base import split
from cotune.strategies.dp_fedsgd import DPFedSGD

WHOLE = Part(((0, 5),))


def sgd(rate: float = 0.5, momentum: float = 0.9) -> DPFedSGD:
    return DPFedSGD("sgd", rate, momentum, 0.999, 1e-8, 0.0)


def test_rounds_reach_the_mean_of_all_units(quadratic, terms) -> None:
    rule, adapter = sgd(rate=0.3, momentum=0.5), np.zeros(5, np.float32)
    state = rule.start(5)
    for _ in range(60):
        contribution = rule.local(quadratic, adapter, WHOLE, terms, 8.0, None)
        adapter, state = rule.apply(adapter, state, WHOLE, split(contribution)[0], nominal_batch=8.0, survivors=1)
    np.testing.assert_allclose(adapter, quadratic.targets.mean(axis=0), atol=1e-4)


def test_one_private_step_a_round_and_the_metrics_travel_with_it(quadratic, terms) -> None:
    rule = sgd()
    contribution = rule.local(quadratic, np.ones(5, np.float32), WHOLE, terms, 8.0, None)
    assert rule.steps_per_round == len(quadratic.visited) == 1
    gradient, metrics = split(contribution)
    np.testing.assert_allclose(gradient, (1 - quadratic.targets).sum(axis=0))
    np.testing.assert_array_equal(metrics, [8, 8, 8])


def test_reach_covers_noise_and_signal(terms) -> None:
    noise = terms.noise_multiplier * terms.sensitivity
    assert sgd().reach(terms, nominal_batch=400.0, sigmas=8.0) == pytest.approx(8 * noise + 20.0)


def test_what_is_published_is_the_running_average(quadratic, terms) -> None:
    rule = DPFedSGD("sgd", 0.3, 0.0, 0.999, 1e-8, averaging=0.7)
    adapter, state = np.zeros(5, np.float32), rule.start(5)
    np.testing.assert_array_equal(rule.published(adapter, state), adapter)
    average = None
    for _ in range(4):
        total, _ = split(rule.local(quadratic, adapter, WHOLE, terms, 8.0, None))
        adapter, state = rule.apply(adapter, state, WHOLE, total, nominal_batch=8.0, survivors=1)
        average = adapter if average is None else 0.7 * average + 0.3 * adapter
        np.testing.assert_allclose(rule.published(adapter, state), average, rtol=1e-5)
    assert not np.allclose(average, adapter)
