"""Rounds without the protocol: each organization's units and noise are its own, and steps are counted."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.adapter.part import whole
from cotune.attacks.subject import lora, random_rows, tiny_base
from cotune.data.units import Units
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import PrivacyTerms
from cotune.server.exchange import Interrupted
from cotune.simulations.rehearsal import AtHome, Rehearsed, at_home, rehearse
from cotune.strategies.base import split
from cotune.strategies.dp_fedsgd import DPFedSGD
from cotune.strategies.fedavg import FedAvg
from cotune.training.trainer import Trainer

TERMS = PrivacyTerms(True, "row", 8.0, 1e-5, 1.5, 0.05, 1.0, 1, 10.0, 0.1)
FREE = TERMS.without_noise
ROWS = {"north": 3, "south": 1, "west": 4}
UNITS = {"north": 3, "south": 2, "west": 4}
SGD = DPFedSGD("sgd", 2.0, 0.9, 0.99, 1e-8, 0.0)
HOME = FedAvg("sgd", 1.0, 0.0, 0.99, 1e-3, 0.0, 3, 0.5, "sgd", 0.9, 0.999, 1e-8, 0.0, 0.0)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    rows = random_rows(8, 4, 3, np.random.default_rng(0))
    units = Units(tuple(f"unit {number}" for number in range(8)), tuple((number,) for number in range(8)))
    return Trainer(tiny_base(1), lora(2), rows, units, 4096, None)


def trained(trainer: Trainer, rule: Any, terms: PrivacyTerms = FREE, rounds: int = 3, **more: Any) -> Rehearsed:
    return rehearse(rule, at_home(trainer, ROWS), terms, UNITS, rounds, 1, lambda: None, threading.Event(), **more)


def test_one_gradient_of_each_is_one_of_all(trainer: Trainer) -> None:
    """Without noise, DP-FedSGD over organizations is the same as over the union."""
    together = rehearse(
        SGD, {"all": AtHome(trainer, range(8))}, FREE, {"all": 9}, 3, 1, lambda: None, threading.Event()
    )
    np.testing.assert_allclose(trained(trainer, SGD).adapter, together.adapter, rtol=1e-5, atol=1e-7)


def test_steps_at_home_are_those_of_each_organization(trainer: Trainer) -> None:
    """Against every organization with a trainer of its own."""
    found = trained(trainer, HOME, rounds=1)
    start = trained(trainer, replace(HOME, local_learning_rate=1e-30), rounds=1).adapter
    moved = np.zeros(len(start))
    for first, name in ((0, "north"), (3, "south"), (4, "west")):
        rows = list(trainer.examples[first : first + ROWS[name]])
        units = Units(tuple(map(str, range(len(rows)))), tuple((number,) for number in range(len(rows))))
        own = Trainer(tiny_base(1), lora(2), rows, units, 4096, None)
        moved += split(HOME.local(own, start, whole(own.schema), FREE, float(UNITS[name]), SeededRandomness(0)))[0]
    np.testing.assert_allclose(found.adapter, start + moved / 3, rtol=1e-4, atol=1e-6)
    union = trained(trainer, HOME, rounds=1, every=1)
    assert np.array_equal(found.adapter, union.adapter)


@pytest.mark.parametrize(("rule", "steps"), [(SGD, 2), (HOME, 6)])
def test_what_is_released_is_counted(trainer: Trainer, rule: Any, steps: int) -> None:
    found = trained(trainer, rule, TERMS, 2)
    assert found.releases == steps == 2 * rule.steps_per_round
    assert found.sent == 2 * trainer.schema.dimension


def test_every_organization_adds_its_own_noise(trainer: Trainer) -> None:
    """With a clip norm near nothing, what is left of a round is the noise of three organizations."""
    quiet = replace(TERMS, max_grad_norm=1e-6, noise_multiplier=1e4)
    rule = DPFedSGD("sgd", 9.0, 0.0, 0.99, 1e-8, 0.0)
    start = trained(trainer, replace(rule, learning_rate=1e-30), FREE, 1).adapter
    moved = trained(trainer, rule, quiet, 1).adapter - start
    assert moved.std() == pytest.approx(3**0.5 * quiet.noise_std, rel=0.1)


def test_with_shared_noise_everybody_adds_a_share(trainer: Trainer) -> None:
    shared = replace(TERMS, max_grad_norm=1e-6, noise_multiplier=1e4, trust="honest_majority", organizations=3)
    shared = replace(shared, colluders=1, dropouts=0)
    rule = DPFedSGD("sgd", 9.0, 0.0, 0.99, 1e-8, 0.0)
    start = trained(trainer, replace(rule, learning_rate=1e-30), FREE, 1).adapter
    moved = trained(trainer, rule, shared, 1).adapter - start
    # Two honest shares carry all of it, and there are three.
    assert moved.std() == pytest.approx((3 / 2) ** 0.5 * 1e4 * shared.sensitivity, rel=0.1)


def test_it_stops_where_it_is_told_to_and_where_numbers_end(trainer: Trainer) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        rehearse(SGD, at_home(trainer, ROWS), FREE, UNITS, 3, 1, lambda: None, stop)
    wild = trained(trainer, replace(SGD, learning_rate=1e300), TERMS, 5, score=lambda adapter: 0.5)
    assert not wild.finite
    assert wild.releases == 1
    assert wild.curve == ()


def test_it_stops_where_the_model_gives_no_numbers(trainer: Trainer) -> None:
    found = trained(trainer, SGD, rounds=5, score=lambda adapter: None, every=2)
    assert not found.finite
    assert (found.curve, found.releases) == ((), 2)


def test_scores_are_taken_where_they_are_asked_for(trainer: Trainer) -> None:
    found = trained(trainer, SGD, rounds=5, score=lambda adapter: float(len(adapter)), every=2)
    assert [number for number, _ in found.curve] == [2, 4, 5]
