"""A strategy of one's own in a federation: it runs where every policy lists its digest, and nowhere else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cotune
import numpy as np
import pytest
from cotune.charter import policy as policies
from cotune.charter.charter import Charter
from cotune.charter.terms import StrategyTerms
from cotune.errors import UserError
from cotune.strategies import own
from cotune.strategies.derived import load_code, strategy_of
from cotune.strategies.model import first

EXAMPLE = Path(cotune.__file__).parent / "docs" / "tutorials" / "sign_sgd.py"
DIGEST = own.read_code(EXAMPLE).digest


def signed_for(charter: Charter) -> Charter:
    terms = StrategyTerms(
        target="SignSGD", code=DIGEST, settings={"learning_rate": 0.125, "averaging": 0.0, "decay": 1.0}
    )
    return charter.model_copy(update={"strategy": terms})


def allow(federation: Any, *members: int, digest: str = DIGEST) -> None:
    for member in members:
        home = federation.homes[member]
        policy = policies.load(home.policy)
        policies.save(policy.model_copy(update={"strategies": (digest,)}), home.policy)


def hand_out(federation: Any) -> None:
    load_code(federation.charter, EXAMPLE)
    for home in federation.homes:
        shutil.copy(EXAMPLE, home.strategy)


def test_it_runs_where_all_allow_it(found: Callable[..., Any]) -> None:
    federation = found(change=signed_for)
    hand_out(federation)
    allow(federation, 0, 1, 2, 3)
    run = federation.run()
    assert run.committed() == [0, 1]
    start = first(federation.charter, own_rule(federation.charter)).adapter
    moved = run.load(0).model.adapter - start
    # By the rate, but for float32's rounding, or not at all where the gradient is zero.
    np.testing.assert_allclose(np.abs(moved), np.where(moved == 0, 0, 0.125), atol=1e-6)
    assert (moved != 0).any()
    assert [len(federation.charges(member)) for member in range(4)] == [2, 2, 2, 2]


def own_rule(charter: Charter) -> Any:
    return own.class_of("SignSGD", DIGEST)(**charter.strategy.settings)


def test_who_does_not_list_it_refuses_before_it_is_loaded(
    found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(change=signed_for)
    hand_out(federation)
    allow(federation, 1, 2)
    allow(federation, 3, digest="ab" * 32)
    loaded = []

    def read(file: Path) -> own.Code:
        loaded.append(file.parent.name)
        raise UserError("not in this test", "do without")

    monkeypatch.setattr(own, "read_code", read)
    with pytest.raises(UserError):
        federation.run()
    refused = {reply.refused for _, reply in federation.replies if reply.refused}
    assert "policy.strategy" in refused
    assert not {home.path.name for home in (federation.homes[0], federation.homes[3])} & set(loaded)
    assert federation.charges(0) == federation.charges(3) == []
    log = federation.homes[3].log.read_text()
    assert f"asks for the strategy SignSGD of the file {DIGEST}" in log
    assert f"the policy allows {'ab' * 8}..." in log


def test_another_file_than_the_charters_is_refused(found: Callable[..., Any]) -> None:
    federation = found(change=signed_for)
    hand_out(federation)
    allow(federation, 0, 1, 2, 3)
    for home in federation.homes:
        home.strategy.write_text(EXAMPLE.read_text() + "# and more\n")
    with pytest.raises(UserError):
        federation.run()
    assert "is not the charter's strategy" in federation.homes[0].log.read_text()
    assert federation.charges(0) == []


def test_shared_noise_asks_what_the_strategy_says(found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A property decides, not a name: one that sends more than one gradient has no part in shared noise."""
    charter = found(shared=True, change=signed_for).charter
    load_code(charter, EXAMPLE)
    assert strategy_of(charter).one_noised_gradient
    monkeypatch.setattr(own.class_of("SignSGD", DIGEST), "one_noised_gradient", False, raising=False)
    with pytest.raises(UserError, match="honest_majority with SignSGD"):
        strategy_of(charter)
