"""For every strategy: as many private steps as are paid for, noise on all that is sent, and bounds that hold."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from cotune.adapter.part import Part
from cotune.adapter.schema import AdapterSchema
from cotune.attacks.subject import lora, random_rows, tiny_base
from cotune.data.units import Units
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import METRICS, PrivacyTerms
from cotune.secagg.limits import TAIL
from cotune.strategies.base import split
from cotune.strategies.dp_fedsgd import DPFedSGD
from cotune.strategies.fedavg import FedAvg
from cotune.strategies.ffa import FFALoRA
from cotune.strategies.rolora import RoLoRA
from cotune.training.trainer import Trainer
from hypothesis import given, settings
from hypothesis import strategies as st

ADAM = ("adam", 0.01, 0.9, 0.99, 1e-8, 0.7)
SERVER = ("sgd", 1.0, 0.0, 0.99, 1e-3, 0.0)
RULES = {
    "dp_fedsgd": DPFedSGD(*ADAM),  # type: ignore[arg-type]
    "rolora": RoLoRA(*ADAM),  # type: ignore[arg-type]
    "ffa": FFALoRA(*ADAM),  # type: ignore[arg-type]
    "fedavg": FedAvg(*SERVER, 4, 0.3, "sgd", 0.9, 0.999, 1e-8, 0.0, 0.0),  # type: ignore[arg-type]
    "fedprox": FedAvg(*SERVER, 4, 0.3, "sgd", 0.9, 0.999, 1e-8, 0.0, 2.0),  # type: ignore[arg-type]
    "adamw": FedAvg(*SERVER, 4, 0.01, "adamw", 0.9, 0.999, 1e-8, 0.1, 0.5),  # type: ignore[arg-type]
}
TERMS = PrivacyTerms(True, "row", 8.0, 1e-5, 1.5, 0.05, 0.5, 1, 10.0, 0.1)
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())

_NAME = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
SCHEMA = AdapterSchema(
    tuple(_NAME.format(layer, side) for layer in range(2) for side in "AB"), ((2, 60), (50, 2), (2, 60), (50, 2))
)


@dataclass
class Loudest:
    """All units of every sample pull the same way with their whole clip norm, a new way in each step; and noise."""

    terms: PrivacyTerms
    units: int
    rng: np.random.Generator
    spread: int
    calls: int = 0

    def private_sum(
        self, adapter: np.ndarray, terms: PrivacyTerms, randomness: object, part: Part | None = None
    ) -> np.ndarray:
        self.calls += 1
        assert terms == self.terms
        size = len(adapter) if part is None else part.size
        signal, noise = np.zeros(size + len(METRICS)), self.rng.normal(size=size + len(METRICS))
        signal[: self.spread] = self.terms.max_grad_norm * self.units / math.sqrt(self.spread)
        return signal + self.terms.noise_std * noise


@every_rule
def test_a_round_takes_the_steps_that_are_paid_for(rule: Any, terms: PrivacyTerms) -> None:
    trainer = Loudest(terms, 5, np.random.default_rng(0), 3)
    for number in range(3):
        part = rule.trained(SCHEMA, number)
        sent = rule.local(trainer, np.ones(SCHEMA.dimension, np.float32), part, terms, 5.0, None)
        assert sent.shape == (part.size + len(METRICS),)
    assert trainer.calls == 3 * rule.steps_per_round


@every_rule
def test_only_what_is_sent_as_it_was_noised_may_share_its_noise(rule: Any, terms: PrivacyTerms) -> None:
    """What a rule says of itself is held against what it does."""
    part, trainer = rule.trained(SCHEMA, 0), Loudest(terms, 5, np.random.default_rng(0), 3)
    sent = rule.local(trainer, np.ones(SCHEMA.dimension, np.float32), part, terms, 5.0, None)
    again = Loudest(terms, 5, np.random.default_rng(0), 3)
    as_noised = np.array_equal(sent, again.private_sum(np.ones(SCHEMA.dimension), terms, None, part))
    assert rule.one_noised_gradient == as_noised
    assert (rule.steps_per_round == 1) or not as_noised


@every_rule
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    units=st.integers(0, 40),
    batch=st.floats(0.5, 60),
    spread=st.integers(1, 100),
    k=st.integers(1, 100),
)
def test_what_is_sent_keeps_to_its_norms(rule: Any, seed: int, units: int, batch: float, spread: int, k: int) -> None:
    """On the k first coordinates, where the signal is, and on others; a miss has a chance of e^-32."""
    rng = np.random.default_rng(seed)
    base, noise = rule.norms(TERMS, float(units), batch)
    adapter = rng.normal(size=SCHEMA.dimension).astype(np.float32) * 100
    for number in range(rule.turns):
        part = rule.trained(SCHEMA, number)
        sent, _ = split(rule.local(Loudest(TERMS, units, rng, spread), adapter, part, TERMS, batch, None))
        for values in (sent[:k], rng.choice(sent, k)):
            # 1e-9: of the arithmetic.
            assert np.linalg.norm(values) <= (base + noise * (math.sqrt(k) + TAIL)) * (1 + 1e-9)


@every_rule
def test_nothing_is_cut_off_what_is_ordinary(rule: Any, terms: PrivacyTerms) -> None:
    """Within six deviations of the noise, and units that pull the same way spread over a batch of coordinates."""
    batch = 25
    adapter = np.ones(SCHEMA.dimension, np.float32)
    part = rule.trained(SCHEMA, 0)
    trainer = Loudest(terms, batch, np.random.default_rng(1), batch)
    sent, _ = split(rule.local(trainer, adapter, part, terms, float(batch), None))
    assert np.abs(sent).max() <= rule.reach(terms, float(batch), 6.0)


def test_a_small_members_noise_fits_too(terms: PrivacyTerms) -> None:
    """At home noise is divided by the own batch, so that the smallest organization's reaches farthest."""
    rule = RULES["fedavg"]
    assert rule.reach(terms, 2.0, 6.0) > rule.reach(terms, 200.0, 6.0)
    trainer = Loudest(terms, 2, np.random.default_rng(1), 2)
    sent, _ = split(rule.local(trainer, np.ones(SCHEMA.dimension, np.float32), Part(((0, 440),)), terms, 2.0, None))  # type: ignore[arg-type]
    assert rule.reach(terms, 200.0, 6.0) < np.abs(sent).max() <= rule.reach(terms, 2.0, 6.0)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    rows = random_rows(6, 4, 3, np.random.default_rng(0))
    units = Units(tuple(f"unit {number}" for number in range(6)), tuple((number,) for number in range(6)))
    return Trainer(tiny_base(1), lora(2), rows, units, 4096, None)


def adapter_of(trainer: Trainer) -> np.ndarray:
    return (0.2 * np.random.default_rng(3).normal(size=trainer.schema.dimension)).astype(np.float32)


@every_rule
def test_one_unit_changes_a_step_by_the_sensitivity_at_most(rule: Any, trainer: Trainer) -> None:
    """Clipped over what is trained: its whole norm is used there, and the rest of the gradient has no part in it."""
    adapter, everybody = adapter_of(trainer), list(range(6))
    free = replace(TERMS, max_grad_norm=100.0)
    for number in range(rule.turns):
        part = rule.trained(trainer.schema, number)
        total = trainer.clipped_sum(adapter, everybody, TERMS, SeededRandomness(0), part)
        assert total.shape == (part.size + len(METRICS),)
        for unit in everybody:
            without = trainer.clipped_sum(
                adapter, [other for other in everybody if other != unit], TERMS, SeededRandomness(0), part
            )
            change = total - without
            assert np.linalg.norm(change) <= TERMS.sensitivity
            plain = part.of(trainer.clipped_sum(adapter, [unit], free, SeededRandomness(0))[: -len(METRICS)])
            length = np.linalg.norm(plain)
            assert length > TERMS.max_grad_norm
            np.testing.assert_allclose(split(change)[0], plain * TERMS.max_grad_norm / length, rtol=1e-3, atol=2e-6)


@every_rule
def test_an_empty_round_sends_noise_on_every_coordinate(rule: Any, trainer: Trainer) -> None:
    """Of the stated deviation, where the contribution is linear in it; of AdamW every coordinate moves."""
    nobody = replace(TERMS, sample_rate=1e-12)
    adapter, batch = adapter_of(trainer), 3.0
    for number in range(rule.turns):
        part = rule.trained(trainer.schema, number)
        draws = np.stack(
            [split(rule.local(trainer, adapter, part, nobody, batch, SeededRandomness(0)))[0] for _ in range(6)]
        )
        assert draws.shape == (6, part.size)
        assert (draws != 0).all()
        # No coordinate that always gets the same, nor two that get the same.
        assert len(np.unique(draws)) == draws.size
        if rule is RULES["adamw"]:
            continue
        weights = [1.0]
        if isinstance(rule, FedAvg):
            kept = 1 - rule.local_learning_rate * rule.proximal
            weights = [rule.local_learning_rate / batch * kept**past for past in range(rule.local_steps)]
        std = nobody.noise_std * math.sqrt(sum(weight**2 for weight in weights))
        assert draws.std() == pytest.approx(std, rel=0.05)
