"""Local steps equal a hand-written loop; one local step of FedAvg is DP-FedSGD with plain SGD."""

import numpy as np
import pytest
from cotune.privacy.terms import METRICS
from cotune.strategies.base import metrics_reach, split
from cotune.strategies.dp_fedsgd import DPFedSGD
from cotune.strategies.fedavg import FedAvg


def test_local_steps_equal_a_loop(quadratic, terms) -> None:
    rule = FedAvg(local_steps=3, local_learning_rate=0.2, server_learning_rate=1.0, server_momentum=0.0)
    start = np.ones(5, np.float32)
    change, metrics = split(rule.local(quadratic, start, terms, 8.0, None))
    by_hand = start.astype(np.float64)
    for _ in range(3):
        by_hand = by_hand - 0.2 * (by_hand - quadratic.targets).sum(axis=0) / 8.0
    np.testing.assert_allclose(start + change, by_hand, rtol=1e-6)
    np.testing.assert_array_equal(metrics, [24] * len(METRICS))
    assert rule.steps_per_round == len(quadratic.visited) == 3


def test_one_local_step_is_dp_fedsgd(quadratic, terms) -> None:
    average = FedAvg(local_steps=1, local_learning_rate=0.3, server_learning_rate=1.0, server_momentum=0.0)
    gradient = DPFedSGD("sgd", 0.3, 0.0, 0.999, 1e-8, 0.0)
    start, members = np.ones(5, np.float32), 4
    sent = [rule.local(quadratic, start, terms, 8.0, None) for rule in (average, gradient)]
    totals = [split(contribution)[0] * members for contribution in sent]
    ended = [
        rule.apply(start, rule.start(5), total, nominal_batch=8.0 * members, survivors=members)[0]
        for rule, total in zip((average, gradient), totals, strict=True)
    ]
    np.testing.assert_allclose(*ended, rtol=1e-6)


def test_server_momentum_accumulates() -> None:
    rule = FedAvg(local_steps=1, local_learning_rate=0.3, server_learning_rate=0.5, server_momentum=0.9)
    adapter, state = np.zeros(1, np.float32), rule.start(1)
    for _ in range(2):
        adapter, state = rule.apply(adapter, state, np.array([4.0]), nominal_batch=1.0, survivors=4)
    assert adapter[0] == pytest.approx(0.5 * 1 + 0.5 * 1.9)


def test_reach_grows_with_the_local_steps(terms) -> None:
    one, four = (FedAvg(steps, 0.3, 1.0, 0.0).reach(terms, 100.0, 8.0) for steps in (1, 4))
    assert four == pytest.approx(4 * one)
    assert metrics_reach(terms, 100.0, 8.0, steps=4) == pytest.approx(4 * metrics_reach(terms, 100.0, 8.0, steps=1))
