"""Personal steps in a simulated run: in the homes, in the report, in no release."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.adapter.basis import load_basis
from cotune.adapter.peft_files import WEIGHTS
from cotune.charter import signatures
from cotune.client.home import NodeHome
from cotune.client.personal import WEIGHT
from cotune.client.sent import found
from cotune.errors import UserError
from cotune.privacy.ledger import Ledger
from cotune.server.run_directory import RunDirectory
from cotune.simulations import simulate
from cotune.simulations.arms import Simulation
from cotune.simulations.judged_rows import JudgedRows
from cotune.simulations.personal_arm import PersonalTask, personalize
from cotune.simulations.reporting import tables
from cotune.simulations.reporting.tables import personal_sentence
from cotune.simulations.workspace import Workspace
from cotune.strategies.alone import alone
from cotune.strategies.derived import nominal_batch, strategy_of

pytestmark = pytest.mark.slow

MEMBERS = ("north-ward", "south", "west")
WORDS = (
    "simulation.arms=[alone,federated,personal]",
    "personal_steps=2",
    "model.top_layers=1",
    "model.cache_features=true",
)


def test_the_arm_is_measured_charged_and_kept_at_home(place: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = place.settings(run_dir, *WORDS)
    report = simulate.run(settings)
    assert tuple(sorted(report.personal)) == MEMBERS
    for name, arm in report.personal.items():
        assert arm.own_organization == arm.by_organization.get(name)
    assert report.arms.personal_mean.ran
    assert [name for name, _ in tables.rows(report)][4:9] == [
        "alone, mean",
        "federation",
        *(f"{name}, personal" for name in MEMBERS),
    ]
    assert str(personal_sentence(report)).startswith("Personal: 2 private steps at home")
    # Rounds and steps together are within the epsilon; the release holds the rounds only.
    charges = {name: Ledger(run_dir / "nodes" / name / "ledger.sqlite").charges() for name in MEMBERS}
    assert [[row.round for row in found] for found in charges.values()] == [[0, 1, 2, 3]] * len(MEMBERS)
    assert report.privacy.by_organization == {name: found[-1].spent_epsilon for name, found in charges.items()}
    stated = json.loads((run_dir / "release" / "privacy_statement.json").read_text())
    assert stated["by_organization"] == {name: found[1].spent_epsilon for name, found in charges.items()}
    assert stated["epsilon_max"] < report.privacy.epsilon_max <= settings.privacy.epsilon
    adapters = [(run_dir / "nodes" / name / "personal" / WEIGHTS).read_bytes() for name in MEMBERS]
    assert len({*adapters, (run_dir / "release" / WEIGHTS).read_bytes()}) == len(MEMBERS) + 1
    # A finished run takes no step again.
    assert simulate.run(settings) == report
    again = [Ledger(run_dir / "nodes" / name / "ledger.sqlite").charges() for name in MEMBERS]
    assert again == list(charges.values())


def test_steps_that_were_taken_before_an_interruption_are_not_taken_again(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = place.settings(tmp_path / "run", *WORDS)
    measured = JudgedRows.measured

    def interrupted(self: Any, points: Any) -> Any:
        raise KeyboardInterrupt

    personal = Simulation._personal

    def taken(self: Any) -> None:
        monkeypatch.setattr(JudgedRows, "measured", interrupted)
        personal(self)

    monkeypatch.setattr(Simulation, "_personal", taken)
    with pytest.raises(KeyboardInterrupt):
        simulate.run(settings)
    monkeypatch.setattr(JudgedRows, "measured", measured)
    monkeypatch.setattr(Simulation, "_personal", personal)
    assert tuple(sorted(simulate.run(settings).personal)) == MEMBERS
    ledger = Ledger(tmp_path / "run" / "nodes" / "south" / "ledger.sqlite")
    assert [(row.round, row.attempt) for row in ledger.charges()] == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_without_personal_steps_the_arm_was_not_run(place: Any, tmp_path: Path) -> None:
    report = simulate.run(place.settings(tmp_path / "run", "simulation.arms=[federated,personal]", "rounds=1"))
    assert report.personal == {}
    assert not report.arms.personal_mean.ran
    assert "personal, mean" not in [name for name, _ in tables.rows(report)]


def test_the_arm_needs_a_federation_to_go_on_from(place: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="personal without federated, which it goes on from: add federated"):
        place.settings(tmp_path / "run", "simulation.arms=[alone,personal]")


def test_without_planned_steps_each_goes_along_its_own_contributions_and_pays_nothing(
    place: Any, rows: Callable[..., Path], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    core = (
        "model.lora.form=core",
        "model.lora.targets=[down_proj]",
        "model.lora.rank=6",
        "model.lora.alpha=6",
        "model.basis.source=public",
        "model.basis.vocabulary=40",
        "privacy.sample_rate=1.0",
        "strategy.server_optimizer=sgd",
        "strategy.learning_rate=2.0",
        f"data.public_file={rows(tmp_path / 'public.jsonl', 12, 7)}",
    )
    words = ("simulation.arms=[federated,personal]", "personal_steps=0", "rounds=4", *WORDS[2:], *core)
    report = simulate.run(place.settings(run_dir, *words))
    assert tuple(sorted(report.personal)) == MEMBERS
    assert str(personal_sentence(report)).startswith("Personal: the federation's adapter, taken further")
    for name in MEMBERS:
        home = NodeHome(run_dir / "nodes" / name)
        ledger = Ledger(home.ledger).charges()
        assert [row.round for row in ledger] == [0, 1, 2, 3]
        assert report.privacy.by_organization[name] == ledger[-1].spent_epsilon
        charter = signatures.load_signed(home.charter, home.signatures)
        sent = found(home.sent(), charter, home.chain().run)
        assert sent.rounds == (2, 3)
        # By hand: the shared adapter less the weight times the rate of somebody alone times the mean gradient.
        strategy = strategy_of(charter)
        shared = RunDirectory(Workspace(run_dir).rounds, charter.digest()).load(3)
        batch = nominal_batch(charter, name)
        rate = alone(charter, batch, load_basis(home.basis).moved).learning_rate
        expected = strategy.published(shared.adapter, shared.state) - WEIGHT * rate * sent.total / batch
        (own,) = (run_dir / "arms").glob(f"personal-{name}/*.npy")
        assert np.allclose(np.load(own), expected, rtol=1e-5, atol=1e-7)
        assert not np.allclose(np.load(own), shared.adapter)
    # Who took part in no later round has nothing to go along, and the run goes on without it.
    (run_dir / "nodes" / "west" / "sent.bin").unlink()
    task = PersonalTask(run_dir / "nodes" / "west", tmp_path / "out", False)
    assert personalize(task, lambda *_: None, lambda *_: None) == []
    assert task.kept == []
