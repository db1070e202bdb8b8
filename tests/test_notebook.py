"""The tutorial's notebook, a run on a corpus and with a metric of one's own, from its first cell to its last."""

import shutil
from pathlib import Path

import cotune
import nbclient
import nbformat
import pytest

TUTORIALS = Path(cotune.__file__).parent / "docs" / "tutorials"
pytestmark = pytest.mark.slow


def test_the_notebook_runs(tmp_path: Path) -> None:
    for file in TUTORIALS.iterdir():
        shutil.copy(file, tmp_path / file.name)
    notebook = nbformat.read(tmp_path / "federation.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=place).execute()
    said = "".join(str(output.get("text", "")) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "round 5: loss" in said
    assert "rounds that hold: 5 first fault: None" in said
    shown = "".join(str(output.get("data", {})) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "balanced_accuracy" in shown
    card = (tmp_path / "runs" / "epsilon-8" / "release" / "README.md").read_text()
    assert "Reports drawn from a list of symptoms" in card
    # The records of a corpus of one's own are in its run's folder only.
    assert not (tmp_path / "cache" / "states").exists()
    assert any("image/png" in output.get("data", {}) for output in notebook.cells[-3].outputs)
    assert len(list((tmp_path / "runs").glob("epsilon-*/release/adapter_model.safetensors"))) == 3
