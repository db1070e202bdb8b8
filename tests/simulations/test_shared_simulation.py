"""A whole run with shared noise: its report, its release and its ledgers say all three epsilons."""

from pathlib import Path
from typing import Any

import pytest
from cotune.errors import UserError
from cotune.privacy.ledger import Ledger
from cotune.simulations import simulate

pytestmark = pytest.mark.slow

SHARED = ("simulation.arms=[federated]", "privacy.trust=honest_majority", "privacy.dropouts=0")


def test_shared_noise_from_settings_to_release(place: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "wide"
    report = simulate.run(place.settings(run_dir, *SHARED, "secagg.lane_bits=24"))
    assert len(report.privacy.exposures) == 3
    assert f"epsilon {report.privacy.epsilon_max:.2f}" in report.privacy.exposures[0]
    statement = (run_dir / "release" / "privacy_statement.md").read_text()
    assert all(line in statement for line in report.privacy.exposures)
    assert "honest majority" in (run_dir / "release" / "README.md").read_text()
    units = {account.unit: account for account in Ledger(run_dir / "nodes" / "south" / "ledger.sqlite").statement()}
    assert set(units) == {"example", "example | server + 1 other"}
    assert units["example"].spent_epsilon > 8 > units["example | server + 1 other"].spent_epsilon


def test_lanes_that_are_too_narrow_are_said_before_anything_is_trained(place: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set secagg.lane_bits=\d+ or more"):
        simulate.run(place.settings(tmp_path / "narrow", *SHARED, "secagg.lane_bits=8"))
