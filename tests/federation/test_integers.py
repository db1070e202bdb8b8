"""Rounds with noise on integers: what is accounted for is what is masked, summed and decoded, to the last step."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cotune.charter.charter import Charter
from cotune.errors import UserError
from cotune.privacy.accounting import calibrate, epsilon
from cotune.privacy.adversaries import account_unit
from cotune.privacy.skellam import grid_for
from cotune.privacy.terms import METRICS
from cotune.strategies.derived import encoding_of, schema_of, strategy_of


def integers(charter: Charter) -> Charter:
    terms = charter.privacy
    grid = grid_for(terms.sensitivity, charter.model.dimension + len(METRICS))
    terms = replace(
        terms,
        noise_multiplier=calibrate(terms.epsilon, terms.delta, terms.sample_rate, charter.rounds, grid=grid),
        mechanism="skellam",
        grid_step=grid.step,
        dimension=grid.dimension,
    )
    secagg = charter.secagg.model_copy(update={"lane_bits": 24 if terms.shares is None else 26})
    return Charter.model_validate(dict(charter) | {"privacy": terms, "secagg": secagg})


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_the_sum_is_the_sum_of_the_integers(found: Callable, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = found(rounds=1, shared=shared, change=integers)
    terms, homes = federation.charter.privacy, federation.homes
    sent: dict[int, np.ndarray] = {}
    totals = []

    def before(kind, member, message):
        if kind == "query.upload":
            sent[member] = homes[member].pending().contribution
        return message

    def decoded(self, words, contributions, right=None):
        total = real(self, words, contributions)
        totals.append(total)
        return total

    from cotune.secagg.encoding import Encoding

    real = Encoding.decode
    monkeypatch.setattr(Encoding, "decode", decoded)
    federation.grid.before = before
    assert federation.run().committed() == [0]
    steps = np.stack([sent[member][:-1] for member in range(4)]) / terms.grid_step
    assert np.array_equal(steps, np.rint(steps))
    assert np.abs(steps).max() > 100
    total, *again = totals
    assert all(np.array_equal(other, total) for other in again)  # each member reads the same
    # Not close: equal. Nothing was rounded or cut on the way.
    assert np.array_equal(total[:-1] / terms.grid_step, steps.sum(axis=0))
    for member in range(4):
        charges = {row.unit: row for row in federation.charges(member)}
        row = charges[account_unit(terms)]
        assert (row.grid_step, row.dimension, row.sensitivity) == (terms.grid_step, terms.dimension, terms.sensitivity)
        assert row.spent_epsilon == epsilon([terms.segment(1)], terms.delta) <= 8.0


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_the_steps_of_the_encoding_are_those_of_the_grid(found: Callable, shared: bool) -> None:
    charter = found(shared=shared, change=integers).charter
    schema, terms = schema_of(charter), charter.privacy
    encoding = encoding_of(charter, strategy_of(charter), schema, 0)
    assert encoding.steps()[:-1].tolist() == [terms.grid_step] * 2
    assert terms.shares is None or encoding.segments[0][1] >= 12 * terms.noise_std + 12 * terms.max_grad_norm
    narrow = charter.model_copy(update={"secagg": charter.secagg.model_copy(update={"lane_bits": 8})})
    with pytest.raises(UserError, match=r"set secagg.lane_bits=(\d+)") as caught:
        encoding_of(narrow, strategy_of(narrow), schema, 0)
    bits = int(str(caught.value).rsplit("=", 1)[1])
    for enough, width in ((True, bits), (False, bits - 1)):
        other = charter.model_copy(update={"secagg": charter.secagg.model_copy(update={"lane_bits": width})})
        if enough:
            encoding_of(other, strategy_of(other), schema, 0)
        else:
            with pytest.raises(UserError, match="noise on integers needs"):
                encoding_of(other, strategy_of(other), schema, 0)


def test_a_charter_whose_grid_is_for_another_adapter_is_none(found: Callable) -> None:
    charter = integers(found().charter)
    terms = replace(charter.privacy, dimension=charter.privacy.dimension - 1)
    with pytest.raises(UserError, match=r"privacy.dimension is \d+, the adapter and its metrics have"):
        Charter.model_validate(dict(charter) | {"privacy": terms})
