"""RoLoRA and FFA-LoRA: what is not trained in a round is neither sent nor touched, nor is what is remembered of it."""

import numpy as np
import pytest
from cotune.adapter.part import whole
from cotune.adapter.schema import AdapterSchema
from cotune.errors import UserError
from cotune.strategies.base import split
from cotune.strategies.dp_fedsgd import DPFedSGD
from cotune.strategies.ffa import FFALoRA
from cotune.strategies.rolora import RoLoRA
from hypothesis import given
from hypothesis import strategies as st

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")
OPTIMIZERS = ("sgd", "adam", "adagrad", "yogi")


def schema_with(sides: str) -> AdapterSchema:
    shapes = {"A": (2, 5), "B": (3, 2)}
    named = [(f"base_model.model.{module}.lora_{side}.weight", shapes[side]) for module in MODULES for side in sides]
    return AdapterSchema(*zip(*named, strict=True))  # type: ignore[arg-type]


SCHEMA = schema_with("AB")
D = SCHEMA.dimension


def rule_of(kind: type[DPFedSGD], optimizer: str, averaging: float = 0.7) -> DPFedSGD:
    return kind(optimizer, 0.1, 0.9, 0.99, 1e-3, averaging)  # type: ignore[arg-type]


def names(rule: DPFedSGD, number: int) -> set[str]:
    """The tensors of which a coordinate is trained; of each then all are."""
    marks = rule.trained(SCHEMA, number).put(np.zeros(D, np.float32), np.ones(rule.trained(SCHEMA, number).size))
    parts = SCHEMA.split(marks)
    assert all(len(np.unique(tensor)) == 1 for tensor in parts.values())
    return {name for name, tensor in parts.items() if tensor.any()}


def test_rolora_trains_b_first_and_then_a_by_turns() -> None:
    rule = rule_of(RoLoRA, "sgd")
    sides = [{name.split(".lora_")[1][0] for name in names(rule, number)} for number in range(4)]
    assert sides == [{"B"}, {"A"}, {"B"}, {"A"}]
    assert names(rule, 0) | names(rule, 1) == set(SCHEMA.names)
    assert (rule.trained(SCHEMA, 0).size, rule.trained(SCHEMA, 1).size) == (12, 20)
    assert rule.turns == 2


def test_ffa_trains_all_of_b_and_nothing_else() -> None:
    for number in range(3):
        assert names(rule_of(FFALoRA, "sgd"), number) == {name for name in SCHEMA.names if "lora_B" in name}


@pytest.mark.parametrize("kind", [RoLoRA, FFALoRA])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@given(seed=st.integers(0, 2**32 - 1), missing=st.sets(st.integers(0, 7), max_size=4))
def test_what_is_not_trained_keeps_every_bit(
    kind: type[DPFedSGD], optimizer: str, seed: int, missing: set[int]
) -> None:
    """Also where rounds are missing: a burned round is taken by nobody."""
    rule, rng = rule_of(kind, optimizer), np.random.default_rng(seed)
    first = adapter = rng.normal(size=D).astype(np.float32)
    state, touched = rule.start(D), np.zeros(D)
    for number in (number for number in range(8) if number not in missing):
        part = rule.trained(SCHEMA, number)
        still = part.put(np.ones(D), np.zeros(part.size)).astype(bool)
        before, held, published = adapter, state, rule.published(adapter, state)
        adapter, state = rule.apply(adapter, state, part, rng.normal(size=part.size), 4.0, 3)
        np.testing.assert_array_equal(adapter[still], before[still])
        np.testing.assert_array_equal(rule.published(adapter, state)[still], published[still])
        for name in state.moments.keys() - ({"average"} if not any(held.steps) else set()):
            np.testing.assert_array_equal(state.moments[name][still], held.moments[name][still])
        assert (adapter[~still] != before[~still]).all()
        touched[~still] = 1
    np.testing.assert_array_equal(adapter[touched == 0], first[touched == 0])
    np.testing.assert_array_equal(rule.published(adapter, state)[touched == 0], first[touched == 0])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@given(seed=st.integers(0, 2**32 - 1), missing=st.sets(st.integers(0, 7), max_size=4))
def test_each_half_of_rolora_walks_as_it_would_alone(optimizer: str, seed: int, missing: set[int]) -> None:
    """Two runs of DP-FedSGD on the halves, each with its own steps, moments and average, give the same bits."""
    rule, rng = rule_of(RoLoRA, optimizer), np.random.default_rng(seed)
    alone, adapter = rule_of(DPFedSGD, optimizer), rng.normal(size=D).astype(np.float32)
    state, parts = rule.start(D), [rule.trained(SCHEMA, turn) for turn in (0, 1)]
    halves = [part.of(adapter) for part in parts]
    states = [alone.start(part.size) for part in parts]
    for number in (number for number in range(8) if number not in missing):
        turn = number % 2
        part, total = parts[turn], rng.normal(size=parts[turn].size)
        adapter, state = rule.apply(adapter, state, part, total, 4.0, 3)
        every = type(part)(((0, part.size),))
        halves[turn], states[turn] = alone.apply(halves[turn], states[turn], every, total, 4.0, 3)
    for part, half, own in zip(parts, halves, states, strict=True):
        np.testing.assert_array_equal(part.of(adapter), half)
        np.testing.assert_array_equal(part.of(rule.published(adapter, state)), alone.published(half, own))
    assert state.steps == tuple(own.steps[0] for own in states)


@pytest.mark.parametrize("kind", [RoLoRA, FFALoRA])
def test_the_contribution_is_the_private_step_of_the_part(quadratic, terms, kind: type[DPFedSGD]) -> None:
    rule, trainer = rule_of(kind, "sgd"), type(quadratic)(np.random.default_rng(0).normal(size=(8, D)))
    for number in range(2):
        part = rule.trained(SCHEMA, number)
        sent, metrics = split(rule.local(trainer, np.zeros(D, np.float32), part, terms, 8.0, None))  # type: ignore[arg-type]
        np.testing.assert_array_equal(sent, part.of(-trainer.targets.sum(axis=0)))
        np.testing.assert_array_equal(metrics, [8, 8, 8])
    assert len(trainer.visited) == 2 * rule.steps_per_round


def test_an_adapter_without_the_half_is_one_line() -> None:
    only_b = schema_with("B")
    assert rule_of(FFALoRA, "sgd").trained(only_b, 0) == whole(only_b)
    for rule, turn, schema in ((rule_of(RoLoRA, "sgd"), 1, only_b), (rule_of(FFALoRA, "sgd"), 0, schema_with("A"))):
        with pytest.raises(UserError, match="this adapter trains no lora_") as caught:
            rule.trained(schema, turn)
        assert "\n" not in str(caught.value)
