"""A rule that trains a part of the adapter by turns, through the whole protocol: only the part travels and moves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cotune.charter.charter import Charter
from cotune.errors import UserError
from cotune.privacy.terms import METRICS
from cotune.strategies.derived import EXTRA, encoding_of, limits_of, schema_of, strategy_of
from cotune.strategies.model import Model, advanced, encoded_bytes, first

ADAM = {"server_optimizer": "adam", "momentum": 0.9, "beta2": 0.99, "stability": 1e-8}


def alternating(charter: Charter) -> Charter:
    settings = {**ADAM, "learning_rate": 0.01, "averaging": 0.5}
    return with_rule(charter, "rolora.RoLoRA", settings)


def with_rule(charter: Charter, target: str, settings: dict[str, Any]) -> Charter:
    update = {"target": f"cotune.strategies.{target}", "settings": settings}
    return charter.model_copy(update={"strategy": charter.strategy.model_copy(update=update)})


@pytest.mark.parametrize("shared", [False, True])
def test_rounds_send_and_move_one_half_by_turns(found: Callable[..., Any], shared: bool) -> None:
    federation = found(rounds=3, shared=shared, change=alternating)
    run = federation.run()
    charter = federation.charter
    strategy, schema = strategy_of(charter), schema_of(charter)
    before = first(charter, strategy)
    for number in range(3):
        done, part = run.load(number), strategy.trained(schema, number)
        still = part.put(np.ones(schema.dimension), np.zeros(part.size)).astype(bool)
        np.testing.assert_array_equal(done.adapter[still], before.adapter[still])
        assert (done.adapter[~still] != before.adapter[~still]).mean() > 0.99
        assert encoding_of(charter, strategy, schema, number).dimension == part.size + len(METRICS) + EXTRA
        assert limits_of(charter, strategy, schema, number).coordinates == part.size
        before = done.model
    assert run.committed() == [0, 1, 2]
    # Lanes that are wide enough for the first round are so for all.
    bounds = {encoding_of(charter, strategy, schema, number).segments[0][1] for number in range(3)}
    assert len(bounds) == 1
    assert before.state.steps == (2, 1)
    # Every member computed the same model, from the sums alone, as it stands in its home.
    kept = [home.model() for home in federation.homes]
    assert all(content is not None and content.endswith(before.encode()) for content in kept)


def test_a_model_with_steps_of_two_halves_comes_back(found: Callable[..., Any]) -> None:
    charter = found(change=alternating).charter
    strategy, schema = strategy_of(charter), schema_of(charter)
    model = first(charter, strategy)
    for number in range(3):
        size = strategy.trained(schema, number).size + len(METRICS) + EXTRA
        total = np.random.default_rng(number).normal(size=size)
        model = advanced(charter, strategy, model, total, (0, 1, 2), number)
    content = model.encode()
    assert len(content) == encoded_bytes(charter, strategy)
    again = Model.decode(content, charter, strategy)
    assert again.state.steps == (2, 1)
    assert again.encode() == content


def test_an_adapter_without_a_is_refused_from_the_charter_alone(found: Callable[..., Any]) -> None:
    charter = alternating(found().charter)
    only_b = tuple(entry for entry in charter.model.adapter_schema if ".lora_B." in entry[0])
    charter = charter.model_copy(update={"model": charter.model.model_copy(update={"adapter_schema": only_b})})
    with pytest.raises(UserError, match="trains no lora_A"):
        strategy_of(charter)


def test_the_bound_is_that_of_whoever_needs_the_widest(found: Callable[..., Any]) -> None:
    """At home noise is divided by the own batch: the range must hold the smallest member's."""
    home = {"local_steps": 2, "local_learning_rate": 0.3, "local_optimizer": "sgd", "local_beta1": 0.9, "proximal": 0.0}
    more = {"local_beta2": 0.999, "local_stability": 1e-8, "local_weight_decay": 0.0, "averaging": 0.0}
    charter = with_rule(found().charter, "fedavg.FedAvg", {**ADAM, **home, **more, "learning_rate": 1.0})
    small = charter.members[0].model_copy(update={"nominal_units": 2})
    unequal = charter.model_copy(update={"members": (small, *charter.members[1:])})
    bounds = [encoding_of(each, strategy_of(each), schema_of(each), 0).segments[0][1] for each in (charter, unequal)]
    assert bounds[1] > 2 * bounds[0]
