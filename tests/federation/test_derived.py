"""What both ends derive from the charter alone."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.privacy.terms import METRICS
from cotune.strategies.derived import EXTRA, encoding_of, limits_of, nominal_batch, schema_of, strategy_of
from cotune.strategies.dp_fedsgd import DPFedSGD
from cotune.strategies.model import Model, first, model_hash


def test_the_strategy_is_the_charters(found: Callable) -> None:
    charter = found().charter
    rule = strategy_of(charter)
    assert isinstance(rule, DPFedSGD)
    assert (rule.learning_rate, rule.momentum) == (0.1, 0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "cotune.strategies.none.None"},
        {"target": "cotune.strategies.dp_fedsgd.Missing"},
        {"settings": {"learning_rate": 0.1}},
        {"settings": {"unknown": 1}},
    ],
)
def test_a_strategy_that_does_not_fit_is_one_line(found: Callable, changes: dict) -> None:
    charter = found().charter
    terms = charter.strategy.model_copy(update=changes)
    with pytest.raises(UserError) as caught:
        strategy_of(charter.model_copy(update={"strategy": terms}))
    assert "\n" not in str(caught.value)


def test_the_encoding_covers_everything_that_is_sent(found: Callable) -> None:
    charter = found().charter
    schema = schema_of(charter)
    encoding = encoding_of(charter, strategy_of(charter), schema, 0)
    assert schema.digest == charter.model.schema_digest
    assert encoding.dimension == schema.dimension + len(METRICS) + EXTRA
    assert encoding.parties == 4
    assert encoding.segments[0][1] >= charter.secagg.range_sigmas * charter.privacy.noise_std
    assert nominal_batch(charter, "alder") == 6.0


def test_the_model_hash_moves_with_every_part(found: Callable) -> None:
    charter = found().charter
    model = first(charter, strategy_of(charter))
    moment = model.state.moments["momentum"].copy()
    moment[0] = -0.0
    tokens = charter.model.model_copy(update={"tokenizer_digest": "ab" * 32})
    models = (
        model,
        replace(model, adapter=np.where(model.adapter == 0, np.float32(-0.0), model.adapter)),
        replace(model, state=replace(model.state, steps=(1,))),
        replace(model, state=replace(model.state, moments=model.state.moments | {"momentum": moment})),
    )
    hashes = [model_hash(charter, other) for other in models]
    assert len({*hashes, model_hash(charter.model_copy(update={"model": tokens}), model)}) == 5
    assert model_hash(charter, Model.decode(model.encode(), charter, strategy_of(charter))) == hashes[0]


def test_the_limits_hold_for_what_honest_members_send(found: Callable) -> None:
    """All sampled units with their whole clip norm in one direction, and noise."""
    charter = found().charter
    strategy, schema, terms = strategy_of(charter), schema_of(charter), charter.privacy
    limits = limits_of(charter, strategy, schema, 0)
    assert limits.coordinates == schema.dimension
    assert limits.base == (12.0 * terms.max_grad_norm,) * 4
    assert limits.spread == terms.noise_std
