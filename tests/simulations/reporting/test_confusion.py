"""The picture of the federation's confusions."""

from pathlib import Path

import numpy as np
import pytest
from cotune.evaluation.classification import classify
from cotune.simulations.reporting import confusion
from cotune.simulations.reporting import report as reports
from cotune.simulations.reporting.report import Arms, Curves, Report

pytest.importorskip("matplotlib")


def report(arms: Arms) -> Report:
    nothing = reports.not_private("row")
    return Report("tiny", (1,), arms, {}, nothing, None, 1.0, {}, 4, 0, Curves(), {}, {}, 0)


def test_a_png_where_labels_were_scored_and_nothing_elsewhere(tmp_path: Path) -> None:
    found = classify(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 1, 1]), ("red", "green", "blue"))
    confusion.draw(report(Arms(federated=reports.measured(0.5, {}, classification=found))), tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    for arms in (Arms(), Arms(federated=reports.measured(0.5, {}))):
        confusion.draw(report(arms), tmp_path / "none.png")
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.png"]
