"""Local steps equal a hand-written loop; one local step of FedAvg is DP-FedSGD with plain SGD."""

from collections.abc import Callable

import numpy as np
import pytest
from cotune.adapter.part import Part
from cotune.privacy.terms import METRICS
from cotune.strategies.base import metrics_reach, split
from cotune.strategies.dp_fedsgd import DPFedSGD
from cotune.strategies.fedavg import FedAvg

Make = Callable[..., FedAvg]
WHOLE = Part(((0, 5),))


def test_local_steps_equal_a_loop(quadratic, terms, average: Make) -> None:
    rule = average(local_steps=3, local_learning_rate=0.2)
    start = np.ones(5, np.float32)
    change, metrics = split(rule.local(quadratic, start, WHOLE, terms, 8.0, None))
    by_hand = start.astype(np.float64)
    for _ in range(3):
        by_hand = by_hand - 0.2 * (by_hand - quadratic.targets).sum(axis=0) / 8.0
    np.testing.assert_allclose(start + change, by_hand, rtol=1e-6)
    np.testing.assert_array_equal(metrics, [24] * len(METRICS))
    assert rule.steps_per_round == len(quadratic.visited) == 3


def test_one_local_step_is_dp_fedsgd(quadratic, terms, average: Make) -> None:
    gradient = DPFedSGD("sgd", 0.3, 0.0, 0.999, 1e-8, 0.0)
    start, members = np.ones(5, np.float32), 4
    rules = (average(local_steps=1), gradient)
    sent = [rule.local(quadratic, start, WHOLE, terms, 8.0, None) for rule in rules]
    totals = [split(contribution)[0] * members for contribution in sent]
    ended = [
        rule.apply(start, rule.start(5), WHOLE, total, nominal_batch=8.0 * members, survivors=members)[0]
        for rule, total in zip(rules, totals, strict=True)
    ]
    np.testing.assert_allclose(*ended, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad", "yogi"])
def test_the_servers_optimizer_is_the_one_of_dp_fedsgd(average: Make, name: str) -> None:
    """The mean change is taken for minus a gradient, with the same settings and the same bits."""
    settings = {"server_optimizer": name, "learning_rate": 0.5, "momentum": 0.9, "averaging": 0.7}
    rules = average(**settings), DPFedSGD(**settings, beta2=0.99, stability=1e-3)  # type: ignore[arg-type]
    rng, adapters = np.random.default_rng(0), [np.ones(5, np.float32)] * 2
    states = [rule.start(5) for rule in rules]
    for _ in range(3):
        total = rng.normal(size=5)
        for which, (rule, sign) in enumerate(zip(rules, (1, -1), strict=True)):
            adapters[which], states[which] = rule.apply(adapters[which], states[which], WHOLE, sign * total, 4.0, 4)
    np.testing.assert_array_equal(*adapters)
    published = [rule.published(*known) for rule, *known in zip(rules, adapters, states, strict=True)]
    np.testing.assert_array_equal(*published)
    assert not np.array_equal(published[0], adapters[0])


def test_server_momentum_accumulates(average: Make) -> None:
    rule = average(local_steps=1, learning_rate=0.5, momentum=0.9)
    adapter, state = np.zeros(1, np.float32), rule.start(1)
    for _ in range(2):
        adapter, state = rule.apply(adapter, state, Part(((0, 1),)), np.array([4.0]), nominal_batch=1.0, survivors=4)
    assert adapter[0] == pytest.approx(0.5 * 1 + 0.5 * 1.9)


def test_reach_grows_with_the_local_steps(terms, average: Make) -> None:
    one, four = (average(local_steps=steps).reach(terms, 100.0, 8.0) for steps in (1, 4))
    assert four == pytest.approx(4 * one)
    assert metrics_reach(terms, 100.0, 8.0, steps=4) == pytest.approx(4 * metrics_reach(terms, 100.0, 8.0, steps=1))


def test_weight_decay_reaches_the_model_and_not_the_bounds(quadratic, terms, average: Make) -> None:
    """What is sent does not grow with the adapter; the server takes off what decay has taken at home."""
    rule = average(local_optimizer="adamw", local_learning_rate=0.01, local_weight_decay=2.0, local_steps=3)
    start = np.full(5, 1e6, np.float32)
    sent, _ = split(rule.local(quadratic, start, WHOLE, terms, 8.0, None))
    assert np.abs(sent).max() <= rule.reach(terms, 8.0, 8.0) < 0.04
    ended, _ = rule.apply(start, rule.start(5), WHOLE, sent, nominal_batch=8.0, survivors=1)
    np.testing.assert_allclose(ended, start * 0.98**3 + sent, rtol=1e-6)
    np.testing.assert_allclose(quadratic.visited[2], start * 0.98**2, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"local_steps": 0}, "local_steps"),
        ({"local_steps": 2.0}, "local_steps"),
        ({"local_steps": 10_001}, "local_steps"),
        ({"local_learning_rate": 0.0}, "local_learning_rate"),
        ({"local_optimizer": "adam"}, "neither sgd nor adamw"),
        ({"server_optimizer": "lamb"}, "no optimizer 'lamb'"),
        ({"local_weight_decay": 0.1}, "for adamw only"),
        ({"local_optimizer": "adamw", "local_weight_decay": 4.0}, "from 0 to 1"),
        ({"local_optimizer": "adamw", "local_weight_decay": -1.0}, "from 0 to 1"),
        ({"proximal": -1.0}, "negative"),
        ({"proximal": 4.0}, "above 1"),
        ({"local_beta2": 0.0}, "local_beta2"),
        ({"local_beta1": 1.0}, "local_beta1"),
        ({"local_beta1": 0.95, "local_beta2": 0.9}, "square of local_beta1"),
        ({"local_stability": 0.0}, "local_stability"),
    ],
)
def test_settings_without_a_bound_are_refused(average: Make, settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        average(**settings)
