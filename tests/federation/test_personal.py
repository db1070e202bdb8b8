"""Personal steps after a run: within the charter's budget, charged before the data are touched, sent to nobody."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.adapter.peft_files import import_peft
from cotune.adapter.schema import AdapterSchema
from cotune.charter.charter import Charter
from cotune.cli.app import main
from cotune.client import contributor, personal
from cotune.client.home import NodeHome
from cotune.client.personal import Individual
from cotune.client.sent import Sent
from cotune.errors import UserError
from cotune.privacy.accounting import calibrate, epsilon
from cotune.privacy.ledger import Ledger

DELTA, ROUNDS, STEPS = 1.0e-3, 2, 2


def planned(steps: int = STEPS) -> Callable[[Charter], Charter]:
    """A charter that plans so many personal steps, with noise for all."""

    def change(charter: Charter) -> Charter:
        terms = charter.privacy
        if terms.enabled:
            terms = replace(terms, noise_multiplier=calibrate(8.0, DELTA, 0.5, ROUNDS + steps))
        return Charter.model_validate(dict(charter) | {"privacy": terms, "personal_steps": steps})

    return change


def personalize(home: NodeHome, **options: Any) -> personal.Personal:
    with home.locked():
        return Individual(home).personalize(**options)


def charged(home: NodeHome) -> list[tuple[int, int]]:
    return [(row.round, row.attempt) for row in Ledger(home.ledger).charges()]


def test_the_whole_fits_the_charters_epsilon_and_the_shared_model_stays(found: Callable[..., Any]) -> None:
    federation = found(ROUNDS, change=planned())
    run, home = federation.run(), federation.homes[0]
    before = home.model()
    sent = len(federation.replies)
    done = personalize(home)
    assert done.steps == STEPS
    assert charged(home) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    spent = Ledger(home.ledger).charges()[-1].spent_epsilon
    assert spent == epsilon([(federation.charter.privacy.noise_multiplier, 0.5, ROUNDS + STEPS)], DELTA)
    assert 7.9 < spent <= 8.0
    assert home.model() == before
    assert len(federation.replies) == sent
    assert not np.array_equal(done.adapter, run.load(ROUNDS - 1).adapter)
    # Another time there is nothing left to take, and nothing is charged.
    assert np.array_equal(personalize(home).adapter, done.adapter)
    assert len(charged(home)) == ROUNDS + STEPS


def test_the_adapter_is_plain_lora_in_the_home_for_nobody_else(found: Callable[..., Any]) -> None:
    federation = found(ROUNDS, change=planned())
    federation.run()
    home = federation.homes[1]
    done = personalize(home)
    folder = home.path / "personal"
    schema = AdapterSchema.from_lists(federation.charter.model.adapter_schema)
    assert np.array_equal(import_peft(folder, schema), done.adapter)
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert folder.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in [*folder.iterdir(), home.path / "personal.bin"])


def test_a_step_is_charged_before_the_data_are_touched(
    found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(ROUNDS, change=planned())
    federation.run()
    home, stepped, seen = federation.homes[0], Individual._stepped, []

    def watched(self: Individual, *given: Any) -> Any:
        seen.append(charged(home)[-1])
        return stepped(self, *given)

    monkeypatch.setattr(Individual, "_stepped", watched)
    personalize(home)
    assert seen == [(2, 0), (3, 0)]


def test_who_is_killed_in_a_step_is_charged_again_and_the_budget_holds(
    found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(ROUNDS, change=planned())
    federation.run()
    home, stepped = federation.homes[0], Individual._stepped

    def killed(self: Individual, *given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Individual, "_stepped", killed)
    with pytest.raises(KeyboardInterrupt):
        personalize(home)
    monkeypatch.setattr(Individual, "_stepped", stepped)
    assert personalize(home).steps == 1
    assert charged(home)[ROUNDS:] == [(2, 0), (2, 1)]
    assert Ledger(home.ledger).charges()[-1].spent_epsilon <= 8.0


def test_steps_go_on_where_a_kill_left_them(found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    federation = found(ROUNDS, change=planned())
    federation.run()
    home = federation.homes[0]

    def killed(step: int, _loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        personalize(home, tell=killed)
    kept = home.personal()
    assert kept is not None
    # The second step was charged and is lost, and a third does not fit.
    assert personalize(home).steps == 1
    assert home.personal() == kept
    assert charged(home)[ROUNDS:] == [(2, 0), (3, 0)]


def test_with_shared_noise_a_personal_step_carries_all_of_it(
    found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(ROUNDS, shared=True, change=planned())
    federation.run()
    home, terms, used = federation.homes[0], federation.charter.privacy, []
    strategy = type(personal.alone(federation.charter, 1.0, 0))
    local = strategy.local

    def watched(self: Any, trainer: Any, adapter: Any, part: Any, given: Any, *rest: Any) -> Any:
        used.append(given.own_multiplier)
        return local(self, trainer, adapter, part, given, *rest)

    monkeypatch.setattr(strategy, "local", watched)
    assert personalize(home).steps == STEPS
    assert used == [terms.noise_multiplier] * STEPS
    assert terms.own_multiplier < terms.noise_multiplier
    rows = Ledger(home.ledger).charges()[-2:]
    assert {row.unit: row.noise_multiplier for row in rows} == {
        "patient | server + 1 other": terms.noise_multiplier,
        "patient": terms.noise_multiplier,
    }
    assert max(row.spent_epsilon for row in rows if "|" in row.unit) <= 8.0


def test_no_step_without_a_plan_or_before_the_end(found: Callable[..., Any]) -> None:
    federation = found(ROUNDS, change=planned())
    home = federation.homes[0]
    with pytest.raises(UserError, match="no run of this charter was followed here: take part in a run first"):
        personalize(home)
    federation.begin(b"r" * 16)
    with pytest.raises(UserError, match="no run of this charter was followed here"):
        personalize(home)
    assert charged(home) == [(0, 0)]


def test_before_the_last_round_the_organization_must_say_that_the_run_ended(found: Callable[..., Any]) -> None:
    federation = found(ROUNDS, change=planned())
    federation.lose("train.round", 0, 1, 2, 3)
    federation.grid.before, lost = None, federation.grid.before
    rounds: list[int] = []

    def before(kind: str, member: int, message: Any) -> Any:
        if kind == "train.round":
            rounds.append(member)
        return lost(kind, member, message) if len(rounds) > 4 else message

    federation.grid.before = before
    with pytest.raises(UserError):
        federation.run()
    home = federation.homes[0]
    with pytest.raises(UserError, match=r"followed 1 of 2 rounds: wait for the last one; .* say so with --ended"):
        personalize(home)
    assert personalize(home, ended=True).steps == STEPS


def test_a_charter_without_personal_steps_has_none(found: Callable[..., Any]) -> None:
    federation = found(ROUNDS)
    federation.run()
    with pytest.raises(UserError, match="the charter plans no personal steps, so its noise leaves no budget for any"):
        personalize(federation.homes[0])


def test_the_verb_takes_them_and_says_where_the_adapter_is(
    found: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    federation = found(ROUNDS, change=planned())
    federation.run()
    home = federation.homes[0]
    with pytest.raises(SystemExit) as ended:
        main(["personal", str(home.path)])
    said = capsys.readouterr().out
    assert ended.value.code == 0, said
    assert "step 1: loss" in said
    assert f"{STEPS} personal steps; the adapter is in {home.personal_folder} and was sent to nobody" in said
    assert charged(home) == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_the_verb_refuses_before_the_run_is_over(found: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    federation = found(ROUNDS, change=planned())
    with pytest.raises(SystemExit) as ended:
        main(["personal", str(federation.homes[0].path)])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "no run of this charter was followed here" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("shared", "steps", "said"),
    [
        (False, 0, "noised gradients of a core or of ffa"),
        (True, 0, "the noise is shared"),
        (False, STEPS, "plans 2 personal steps"),
    ],
)
def test_going_further_is_refused_where_it_means_nothing(
    shared: bool, steps: int, said: str, found: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    federation = found(ROUNDS, shared=shared, change=planned(steps))
    federation.run()
    home = federation.homes[0]
    before = charged(home)
    with pytest.raises(SystemExit) as ended:
        main(["personal", str(home.path), "--weight", "1"])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert charged(home) == before
    assert not (home.path / "sent.bin").exists()


@pytest.mark.parametrize("full", [False, True])
def test_a_contribution_is_kept_and_a_full_disk_costs_no_round(
    full: bool, found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The adapters here are plain LoRA, which nobody goes along; what is kept of a round is the same of every form."""

    def failing(_home: NodeHome, _content: bytes) -> None:
        raise UserError("sent.bin: No space left on device", "free disk space")

    monkeypatch.setattr(contributor, "own_gradients", lambda *_: True)
    if full:
        monkeypatch.setattr(NodeHome, "set_sent", failing)
    federation = found(ROUNDS)
    run = federation.run()
    assert run.committed() == [0, 1]
    kept = [home.sent() for home in federation.homes]
    if full:
        assert kept == [None] * len(kept)
        assert "is not kept for a personal adapter: sent.bin" in caplog.text
        return
    assert all(Sent.decode(content, federation.charter).rounds == (1,) for content in kept)
    assert all((home.path / "sent.bin").stat().st_mode & 0o077 == 0 for home in federation.homes)
