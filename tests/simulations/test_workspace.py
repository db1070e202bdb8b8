"""The run's folder: continued only by its own settings, emptied only where it is a run, refused in one line."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cotune.errors import UserError
from cotune.simulations import workspace
from cotune.simulations.workspace import alone_in, open_workspace


def _begin(space: workspace.Workspace) -> None:
    """As if a charter had been signed."""
    space.server.mkdir()
    (space.server / "signatures.json").write_text("{}")


def test_a_new_folder_gets_its_marker(place: Any, tmp_path: Path) -> None:
    space = open_workspace(place.settings(tmp_path / "a" / "b"))
    assert json.loads(space.marker.read_text())["rounds"] == 2
    assert list(space.path.iterdir()) == [space.marker]


def test_continue_needs_the_same_settings(place: Any, tmp_path: Path) -> None:
    _begin(open_workspace(place.settings(tmp_path / "run")))
    marker = tmp_path / "run" / "settings.json"
    before = marker.read_text()
    for word, key in (
        ("rounds=5", "rounds"),
        ("privacy.epsilon=1.0", "privacy.epsilon"),
        ("model.lora.rank=2", "model.lora.rank"),
        ("simulation.generate_rows=1", "simulation.generate_rows"),
    ):
        with pytest.raises(UserError, match=f"another value of {key}: ") as refused:
            open_workspace(place.settings(tmp_path / "run", word))
        assert "\n" not in str(refused.value)
    assert marker.read_text() == before
    open_workspace(place.settings(tmp_path / "run", "simulation.workers=1", "simulation.threads_per_worker=2"))
    assert (tmp_path / "run" / "server" / "signatures.json").exists()


@pytest.mark.parametrize("key", ["data.files", "data.test_file", "data.validation_file", "data.public_file"])
def test_continue_needs_the_same_content_of_every_data_file(place: Any, tmp_path: Path, key: str) -> None:
    """Else arms that are compared would have seen different rows."""
    copies = {path: shutil.copy(path, tmp_path) for path in (*place.files, place.test)}
    for name in ("validation", "public"):
        (tmp_path / f"{name}.jsonl").write_text("")
    words = (
        f"data.files=[{','.join(str(copies[path]) for path in place.files)}]",
        f"data.test_file={copies[place.test]}",
        f"data.validation_file={tmp_path / 'validation.jsonl'}",
        f"data.public_file={tmp_path / 'public.jsonl'}",
    )
    settings = place.settings(tmp_path / "run", *words)
    _begin(open_workspace(settings))
    open_workspace(settings)
    file = settings.data.files[1] if key == "data.files" else getattr(settings.data, key.removeprefix("data."))
    before = file.read_bytes()
    file.write_bytes(before + b"\n")
    with pytest.raises(UserError, match=f"was started with other content of {file}: put the file back") as refused:
        open_workspace(settings)
    assert "\n" not in str(refused.value)
    file.unlink()  # whoever needs it says that it is gone
    open_workspace(settings)
    file.write_bytes(before + b"\n")
    with pytest.raises(UserError, match="other content of"):
        open_workspace(settings)
    file.write_bytes(before)
    open_workspace(settings)
    file.write_bytes(before + b"\n")
    open_workspace(place.settings(tmp_path / "run", *words, "simulation.existing=fresh"))


def test_before_the_charter_a_data_file_may_be_mended(place: Any, tmp_path: Path) -> None:
    copy = Path(shutil.copy(place.test, tmp_path))
    settings = place.settings(tmp_path / "run", f"data.test_file={copy}")
    open_workspace(settings)
    copy.write_text("mended")
    _begin(open_workspace(settings))
    copy.write_text("changed")
    with pytest.raises(UserError, match="other content of"):
        open_workspace(settings)


def test_before_the_charter_a_mistake_may_be_mended(place: Any, tmp_path: Path) -> None:
    """The first try died of a wrong path, say; the second is not another run."""
    open_workspace(place.settings(tmp_path / "run", "rounds=3"))
    space = open_workspace(place.settings(tmp_path / "run", "rounds=4"))
    assert json.loads(space.marker.read_text())["rounds"] == 4


def test_refuse_and_fresh(place: Any, tmp_path: Path) -> None:
    _begin(open_workspace(place.settings(tmp_path / "run")))
    with pytest.raises(UserError, match="holds a run already"):
        open_workspace(place.settings(tmp_path / "run", "simulation.existing=refuse"))
    assert (tmp_path / "run" / "server").exists()
    space = open_workspace(place.settings(tmp_path / "run", "simulation.existing=fresh", "rounds=9"))
    assert list(space.path.iterdir()) == [space.marker]


def test_two_runs_are_never_in_one_folder(tmp_path: Path) -> None:
    """A second demo in the same folder deleted the uploads that the first was receiving."""
    run = tmp_path / "run"
    with alone_in(run):
        (run / "settings.json").write_text("{}")
        with pytest.raises(UserError, match="another run is at work here"), alone_in(run):
            raise AssertionError("two are in")
        code = "import sys; from pathlib import Path; from cotune.simulations.workspace import alone_in\n"
        code += "with alone_in(Path(sys.argv[1])): print('in')"
        other = [sys.executable, "-c", code, str(run)]
        refused = subprocess.run(other, capture_output=True, text=True, check=False)
        assert "another run is at work here" in refused.stderr
        assert refused.stdout == ""
    assert subprocess.run(other, capture_output=True, text=True, check=True).stdout == "in\n"
    with alone_in(tmp_path / "deep" / "nothing"):
        pass
    assert not (tmp_path / "deep" / "nothing").exists()


@pytest.mark.parametrize("existing", ["continue", "fresh", "refuse"])
@pytest.mark.parametrize(
    ("name", "content"),
    [("thesis.tex", "years of work"), ("settings.json", '{"editor.fontSize": 12}'), ("settings.json", "{")],
)
def test_what_is_not_ours_is_left_alone(place: Any, tmp_path: Path, existing: str, name: str, content: str) -> None:
    """settings.json is a common name: a folder that holds some other program's is not emptied either."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text(content)
    with pytest.raises(UserError, match="not a run of cotune"):
        open_workspace(place.settings(folder, f"simulation.existing={existing}"))
    assert (folder / name).read_text() == content
    assert len(list(folder.iterdir())) == 1


def test_a_file_where_the_folder_should_be(place: Any, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    for run_dir in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(UserError, match="set run_dir"):
            open_workspace(place.settings(run_dir))


def test_a_full_disk_is_said_before_anything_is_written(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "SMALLEST_DISK", 10**18)
    with pytest.raises(UserError, match="GB free, a run needs"):
        open_workspace(place.settings(tmp_path / "deep" / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_one_line(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workspace, "write_text", full)
    with pytest.raises(UserError, match="No space left on device"):
        open_workspace(place.settings(tmp_path / "run"))


def test_results_are_kept(place: Any, tmp_path: Path) -> None:
    space = open_workspace(place.settings(tmp_path / "run"))
    assert space.result("base") is None
    space.keep("base", {"accuracy": 0.5})
    assert space.result("base") == {"accuracy": 0.5}
    with pytest.raises(ValueError, match="JSON"):
        space.keep("base", {"accuracy": float("nan")})
    assert space.result("base") == {"accuracy": 0.5}
