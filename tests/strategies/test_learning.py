"""With a real trainer and without noise every rule and every optimizer learns."""

from typing import Any

import numpy as np
import pytest
from cotune.adapter.schema import initial
from cotune.attacks.subject import lora, random_rows, tiny_base
from cotune.data.units import Units
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import PrivacyTerms
from cotune.strategies.base import split
from cotune.strategies.dp_fedsgd import DPFedSGD
from cotune.strategies.fedavg import FedAvg
from cotune.strategies.ffa import FFALoRA
from cotune.strategies.rolora import RoLoRA
from cotune.training.trainer import Trainer

UNITS = 16
TERMS = PrivacyTerms(False, "row", 0.0, 0.0, 0.0, 0.5, 1.0, 1, 10.0, 0.1)
RATES = {"sgd": 2.0, "adam": 0.01, "adagrad": 0.03, "yogi": 0.02}
PLAIN = ("sgd", 1.0, 0.0, 0.99, 1e-3, 0.0)
GRADIENTS = {
    f"{kind.__name__}-{name}": kind(name, rate, 0.9, 0.99, 1e-3, 0.5)  # type: ignore[arg-type]
    for kind in (DPFedSGD, RoLoRA, FFALoRA)
    for name, rate in RATES.items()
}
AVERAGES = {
    "sgd": FedAvg(*PLAIN, 2, 2.0, "sgd", 0.9, 0.999, 1e-8, 0.0, 0.0),  # type: ignore[arg-type]
    "fedprox": FedAvg(*PLAIN, 2, 2.0, "sgd", 0.9, 0.999, 1e-8, 0.0, 0.1),  # type: ignore[arg-type]
    "adamw": FedAvg(*PLAIN, 2, 0.01, "adamw", 0.9, 0.999, 1e-8, 0.0, 0.0),  # type: ignore[arg-type]
    "adamw, yogi": FedAvg("yogi", 0.02, 0.9, 0.99, 1e-3, 0.0, 2, 0.01, "adamw", 0.9, 0.999, 1e-8, 0.01, 0.0),
}
RULES = {**GRADIENTS, **AVERAGES}


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    rows = random_rows(UNITS, 4, 3, np.random.default_rng(0))
    units = Units(tuple(f"unit {number}" for number in range(UNITS)), tuple((number,) for number in range(UNITS)))
    return Trainer(tiny_base(1), lora(4), rows, units, 4096, None)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_the_loss_falls_by_a_quarter(rule: Any, trainer: Trainer) -> None:
    adapter = initial(trainer.schema, 1)
    state, first = rule.start(len(adapter)), trainer.loss(adapter, range(UNITS))
    for number in range(20):
        part = rule.trained(trainer.schema, number)
        total, _ = split(rule.local(trainer, adapter, part, TERMS, float(UNITS), SeededRandomness(number)))
        adapter, state = rule.apply(adapter, state, part, total, float(UNITS), 1)
    assert trainer.loss(rule.published(adapter, state), range(UNITS)) < 0.75 * first
