"""A simulation whose members run out of budget: the release is that of the rounds that were committed, and says so."""

import json
from pathlib import Path
from typing import Any

import pytest
from cotune.charter import policy as policies
from cotune.client.home import NodeHome
from cotune.client.workbench import prepare
from cotune.enrollment import node_settings as nodes
from cotune.privacy.adversaries import Event, reserve
from cotune.privacy.ledger import Ledger
from cotune.simulations import simulate
from cotune.simulations.consortium import found
from cotune.simulations.corpus import load_corpus
from cotune.simulations.workspace import open_workspace

pytestmark = pytest.mark.slow


def spend_a_round(home: NodeHome, charter: Any) -> None:
    """Another run took the budget of one round from this data set."""
    bench = prepare(charter, nodes.load(home.settings), policies.load(home.policy), home.cache, home.basis)
    event = Event(bench.holdings, charter.digest(), "ff" * 16, 0, 0)
    reserve(Ledger(home.ledger), charter.privacy, event, 1, charter.privacy.epsilon)


def test_the_release_of_a_run_that_ended_early(place: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    settings = place.settings(run_dir, "simulation.arms=[federated]", "rounds=3")
    consortium = found(settings, open_workspace(settings), load_corpus(settings))
    spend_a_round(NodeHome(run_dir / "nodes" / "south"), consortium.charter)
    report = simulate.run(settings)
    assert "ended after 2 of 3 rounds" in capsys.readouterr().out.replace("\n", " ")
    assert [point[0] for point in report.curves.federated] == [1, 2]
    assert (report.rounds, report.config["rounds"]) == (2, 3)
    card = (run_dir / "release" / "README.md").read_text()
    assert "rounds: 2 of 3 planned" in card
    statement = json.loads((run_dir / "release" / "privacy_statement.json").read_text())
    # South was refused by its own ledger; the others trained for the round that never came.
    assert statement["steps"] == {"north-ward": 3, "south": 2, "west": 3}
    assert statement["by_organization"]["south"] < statement["by_organization"]["west"] <= 8.0
    assert statement["by_organization"] == pytest.approx(report.privacy.by_organization)
    assert simulate.run(place.settings(run_dir, "simulation.arms=[federated]", "rounds=3")) == report
