"""What both ends derive from the charter alone."""

from collections.abc import Callable

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.privacy.terms import METRICS
from cotune.strategies.agreed import EXTRA, encoding_of, model_hash, nominal_batch, schema_of, strategy_of
from cotune.strategies.dp_fedsgd import DPFedSGD


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
    adapter = np.arange(6, dtype=np.float32)
    other = adapter.copy()
    other[0] = -0.0
    tokens = charter.model.model_copy(update={"tokenizer_digest": "ab" * 32})
    hashes = {
        model_hash(charter, adapter),
        model_hash(charter, other),
        model_hash(charter, adapter[:-1]),
        model_hash(charter.model_copy(update={"model": tokens}), adapter),
    }
    assert len(hashes) == 4
    assert model_hash(charter, adapter) == model_hash(charter, adapter[::-1][::-1])
