"""The model that both ends compute: its bytes, and that nothing else is taken for it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cotune.adapter.part import Part
from cotune.errors import UserError
from cotune.strategies.derived import schema_of, strategy_of
from cotune.strategies.dp_fedsgd import DPFedSGD
from cotune.strategies.model import Model, advanced, encoded_bytes, first


def test_a_model_comes_back_and_no_other_bytes_are_one(found: Callable) -> None:
    charter = found().charter
    rule = strategy_of(charter)
    model = first(charter, rule)
    content = model.encode()
    assert len(content) == encoded_bytes(charter, rule)
    again = Model.decode(content, charter, rule)
    np.testing.assert_array_equal(again.adapter, model.adapter)
    assert again.state.steps == (0,)
    assert set(again.state.moments) == set(model.state.moments)
    nan = replace(model, adapter=np.full_like(model.adapter, np.nan)).encode()
    infinite = replace(model.state, moments={name: moment + np.inf for name, moment in model.state.moments.items()})
    for bad in (b"", content[:-1], content + b"\0", nan, replace(model, state=infinite).encode()):
        with pytest.raises(ValueError, match="a model"):
            Model.decode(bad, charter, rule)


def test_a_step_follows_from_survivors_and_sum_alone(found: Callable) -> None:
    charter = found().charter
    rule, dimension = strategy_of(charter), schema_of(charter).dimension
    start, total = first(charter, rule), np.random.default_rng(0).normal(size=dimension + 4)
    one = advanced(charter, rule, start, total, (0, 1, 3), 0)
    assert one.encode() == advanced(charter, rule, start, total.copy(), (0, 1, 3), 0).encode()
    assert one.encode() != advanced(charter, rule, start, total, (0, 1, 2, 3), 0).encode()
    expected, _ = rule.apply(start.adapter, start.state, Part(((0, dimension),)), total[:dimension], 18.0, 3)
    np.testing.assert_array_equal(one.adapter, expected)


def test_a_step_that_is_not_finite_is_refused(found: Callable) -> None:
    charter = found().charter
    rule = DPFedSGD("sgd", 1e300, 0.0, 0.9, 1e-8, 0.5)
    total = np.full(schema_of(charter).dimension + 4, 1e300)
    with pytest.raises(UserError, match="not finite"):
        advanced(charter, rule, first(charter, rule), total, (0, 1, 2), 0)
