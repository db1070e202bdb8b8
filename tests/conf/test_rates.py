"""Rates that follow from the noise: one round's noise moves each number of a core by 0.1, whoever trains."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from cotune.conf.compose import compose
from cotune.conf.rates import settled, strategy_options
from cotune.privacy.terms import PrivacyTerms
from cotune.strategies import alone
from cotune.strategies.dp_fedsgd import DPFedSGD

TERMS = PrivacyTerms(True, "code", 8.0, 1e-5, 2.4, 0.2, 1.0, 4, 10.0, 0.1)


@pytest.mark.parametrize("noise", [4.5, 13.9])
@pytest.mark.parametrize("units", [[700] * 4, [100, 300, 50]])
@pytest.mark.parametrize("shared", [False, True])
def test_a_rounds_noise_moves_a_core_by_a_tenth(noise: float, units: list[int], shared: bool) -> None:
    """What all members add: with shared noise each adds less, so that what it moves is the same at a higher rate."""
    terms = replace(TERMS, noise_multiplier=noise)
    if shared:
        terms = replace(terms, trust="honest_majority", organizations=len(units), colluders=1)
    options = strategy_options(compose([]), terms, units, 0)
    assert options["server_optimizer"] == "sgd"
    deviation = len(units) ** 0.5 * terms.noise_std / sum(units)
    assert options["learning_rate"] * deviation == pytest.approx(0.1, rel=0.01)


def test_at_little_noise_the_rate_no_longer_grows_the_sooner_the_more_tokens() -> None:
    def rate(terms: PrivacyTerms, tokens: int, *words: str) -> Any:
        return strategy_options(compose([*words]), terms, [700] * 4, tokens)["learning_rate"]

    limit = rate(replace(TERMS, noise_multiplier=4.0), 44)
    assert rate(TERMS, 44) == limit
    assert rate(TERMS, 24) > 1.5 * limit
    assert rate(TERMS, 24) == rate(TERMS, 0)  # the noise is above what 24 tokens allow
    assert rate(TERMS.without_noise, 44, "privacy=none") == limit


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["strategy.learning_rate=3"], {"learning_rate": 3.0, "server_optimizer": "sgd"}),
        (["strategy.server_optimizer=adam"], {"learning_rate": 0.03, "server_optimizer": "adam"}),
        (["recipe=lora"], {"learning_rate": 0.03, "server_optimizer": "adam"}),
        (["strategy=fedavg", "recipe=lora"], {"local_learning_rate": 1.0, "learning_rate": 1.0}),
        (["strategy=fedavg", "strategy.local_optimizer=adamw"], {"local_learning_rate": 0.001}),
        (["strategy=fedavg"], {"local_learning_rate": pytest.approx(0.1 * 700 / TERMS.noise_std, rel=0.01)}),
    ],
    ids=str,
)
def test_what_is_set_stays_and_the_rest_follows(words: list[str], expected: dict[str, Any]) -> None:
    options = strategy_options(compose(words), TERMS, [700] * 4, 0)
    assert {key: options[key] for key in expected} == expected
    assert None not in options.values()


@pytest.mark.parametrize("noise", [4.5, 13.9])
def test_b_behind_a_given_a_is_moved_by_its_own_step(noise: float) -> None:
    terms = replace(TERMS, noise_multiplier=noise)
    core, ffa = (strategy_options(compose([]), terms, [700] * 4, 0, form)["learning_rate"] for form in ("core", "ffa"))
    assert ffa / core == pytest.approx(1.5, rel=0.02)
    deviation = 2 * terms.noise_std / 2800
    for start, step in (("zero", 0.15), ("public", 0.05)):
        words = ["experiment=plain_words", f"model.basis.start={start}"]
        options = strategy_options(compose(words), terms, [700] * 4, 0)
        assert options["server_optimizer"] == "sgd"
        assert options["learning_rate"] * deviation == pytest.approx(step, rel=0.01)


@pytest.mark.parametrize(
    ("batch", "noise", "ratio"),
    [(700, 9.0, 0.5), (2800, 9.0, 2.0), (2800, 6.0, 1.5), (2800, 3.0, 1.0), (700, 3.0, 0.5)],
    ids=["alone", "pooled", "pooled to the end", "no further than the charter", "alone at little noise"],
)
def test_arms_alone_and_pooled_are_moved_as_far(
    batch: float, noise: float, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member's noise over one member's units, or over all of them, up to where ends of answers break."""
    rule = DPFedSGD("sgd", 300.0, 0.9, 0.99, 1e-8, 0.7)
    monkeypatch.setattr(alone, "strategy_of", lambda _charter: rule)
    monkeypatch.setattr(alone, "nominal_batch", lambda _charter, _name: 700.0)

    members = tuple(SimpleNamespace(name=name) for name in "abcd")
    privacy = SimpleNamespace(noise_multiplier=noise, own_multiplier=noise)
    charter: Any = SimpleNamespace(model=SimpleNamespace(form="core"), members=members, privacy=privacy)
    assert alone.alone(charter, batch, tokens=44) == replace(rule, learning_rate=ratio * 300.0)
    charter.model.form = "lora"
    assert alone.alone(charter, batch, tokens=44) == rule


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["privacy.epsilon=8"], (128, 128, 0.25)),
        (["privacy.epsilon=3"], (128, 128, 0.25)),
        (["privacy.epsilon=1"], (64, 64, 0.0)),
        (["privacy=none"], (128, 128, 0.25)),
        (["privacy.epsilon=1", "model.lora.rank=32"], (32, 32, 0.0)),
        (["privacy.epsilon=1", "model.basis.whitening=0.25"], (64, 64, 0.25)),
        (["model.lora.form=ffa"], (64, 64, 0.25)),
        (["recipe=lora"], (8, 16, 0.25)),
    ],
    ids=str,
)
def test_much_noise_asks_for_few_plain_directions(words: list[str], expected: tuple[int, float, float]) -> None:
    model = settled(compose(words), [700] * 4, answered=True).model
    assert (model.lora.rank, model.lora.alpha, model.basis.whitening) == expected


@pytest.mark.parametrize(
    ("words", "answered", "expected"),
    [
        (["privacy.epsilon=8"], True, "zero"),
        (["privacy.epsilon=3"], True, "public"),
        (["privacy.epsilon=3"], False, "zero"),
        (["privacy.epsilon=3", "model.basis.start=zero"], True, "zero"),
        (["privacy.epsilon=8", "model.basis.start=public"], True, "public"),
        (["privacy.epsilon=1", "recipe=lora"], True, "zero"),
        (["privacy=none"], True, "zero"),
    ],
    ids=str,
)
def test_more_than_little_noise_asks_for_a_start_from_public_rows(
    words: list[str], answered: bool, expected: str
) -> None:
    assert settled(compose(words), [700] * 4, answered).model.basis.start == expected


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["privacy.epsilon=5"], "zero"),
        (["privacy.epsilon=5", "personal_steps=20"], "public"),
        (["privacy.epsilon=3", "privacy.trust=honest_majority"], "zero"),
    ],
    ids=str,
)
def test_what_follows_from_the_noise_follows_from_what_is_added(words: list[str], start: str) -> None:
    """Personal steps ask for more of it, and shared noise is less."""
    assert settled(compose(words), [700] * 4, answered=True).model.basis.start == start


def test_alone_under_shared_noise_adds_more_than_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rate is that at which all of the noise, over one member's units, moves a core by a tenth."""
    shared = replace(TERMS, noise_multiplier=9.0, trust="honest_majority", organizations=4, colluders=1)
    together = strategy_options(compose([]), shared, [700] * 4, 44)["learning_rate"]
    rule = DPFedSGD("sgd", float(together), 0.9, 0.99, 1e-8, 0.7)
    monkeypatch.setattr(alone, "strategy_of", lambda _charter: rule)
    monkeypatch.setattr(alone, "nominal_batch", lambda _charter, _name: 700.0)
    members = tuple(SimpleNamespace(name=name) for name in "abcd")
    charter: Any = SimpleNamespace(model=SimpleNamespace(form="core"), members=members, privacy=shared)
    found: Any = alone.alone(charter, 700, tokens=44)
    assert found.learning_rate * shared.alone.noise_std / 700 == pytest.approx(0.1, rel=0.01)


def test_more_records_are_less_noise() -> None:
    settings = compose(["privacy.epsilon=1"])
    assert settled(settings, [1400] * 4, answered=True).model.lora.rank == 128
