"""A whole run with shared noise: its report, its release and its ledgers say all three epsilons."""

from pathlib import Path
from typing import Any

import pytest
from cotune.errors import UserError
from cotune.privacy.ledger import Ledger
from cotune.simulations import simulate

pytestmark = pytest.mark.slow

SHARED = ("simulation.arms=[federated]", "privacy.trust=honest_majority", "privacy.dropouts=0")


def test_shared_noise_from_settings_to_release(place: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "wide"
    report = simulate.run(place.settings(run_dir, *SHARED, "secagg.lane_bits=24"))
    assert len(report.privacy.exposures) == 3
    promised = " ".join(capsys.readouterr().out.split()).partition("the base")[0]
    assert all(line in promised for line in report.privacy.exposures)
    assert "epsilon 8" not in promised
    assert f"epsilon {report.privacy.epsilon_max:.2f}" in report.privacy.exposures[0]
    statement = (run_dir / "release" / "privacy_statement.md").read_text()
    assert all(line in statement for line in report.privacy.exposures)
    assert "honest majority" in (run_dir / "release" / "README.md").read_text()
    units = {account.unit: account for account in Ledger(run_dir / "nodes" / "south" / "ledger.sqlite").statement()}
    assert set(units) == {"example", "example | server + 1 other"}
    assert units["example"].spent_epsilon > 8 > units["example | server + 1 other"].spent_epsilon


@pytest.mark.parametrize("trust", ["nobody", "honest_majority"])
def test_noise_on_integers_from_settings_to_release(place: Any, tmp_path: Path, trust: str) -> None:
    run_dir = tmp_path / "integers"
    sharing = () if trust == "nobody" else SHARED[1:]
    lanes = "secagg.lane_bits=28"
    report = simulate.run(
        place.settings(run_dir, "simulation.arms=[federated,alone]", "privacy.mechanism=skellam", lanes, *sharing)
    )
    assert report.privacy.epsilon_max is not None
    assert 4 < report.privacy.epsilon_max <= 8
    assert "Skellam noise of" in (run_dir / "release" / "privacy_statement.md").read_text()
    ledger = Ledger(run_dir / "nodes" / "south" / "ledger.sqlite")
    assert all(row.grid_step > 0 for row in ledger.charges())
    assert {account.method for account in ledger.statement()} == {"rdp"}


def test_lanes_that_are_too_narrow_are_said_before_anything_is_trained(place: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set secagg.lane_bits=\d+ or more"):
        simulate.run(place.settings(tmp_path / "narrow", *SHARED, "secagg.lane_bits=8"))
