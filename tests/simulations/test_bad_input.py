"""What a person gets wrong: one line on standard error, exit code 2, and nothing half written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.cli import app as command
from cotune.offline import OFFLINE
from cotune.simulations import workspace
from cotune.training import capacity as room

Refused = Callable[..., str]


@pytest.fixture
def refused(place: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)

    def call(*more: str, shown: list[str] | None = None) -> str:
        """Run with these settings; the line on standard error. What was shown before goes into `shown`."""
        before = _files(place.root) | _files(tmp_path)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            command.main(["simulate", *place.words(tmp_path / "run", *more)])
        out, line = capfd.readouterr()
        if shown is not None:
            shown.append(out)
        assert ended.value.code == 2
        assert line.startswith("error: ")
        assert line.endswith("\n")
        assert line.count("\n") == 1
        assert "Traceback" not in line
        assert (_files(place.root) | _files(tmp_path)) - before <= {tmp_path / "run" / "settings.json"}
        return line

    return call


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def with_file(place: Any, tmp_path: Path) -> Callable[[str], str]:
    """The setting data.files with the second organization's file replaced by this content."""

    def make(content: str) -> str:
        other = tmp_path / "other.jsonl"
        other.write_text(content)
        return f"data.files=[{place.files[0]},{other},{place.files[2]}]"

    return make


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "other.jsonl"),
        ("\n\n", "other.jsonl"),
        ('{"prompt": "word1", "answer": "red", "unit": "1"}\n{"prompt": "wo\n', "line 2"),
        ('{"question": "word1", "answer": "red", "unit": "1"}\n', "column prompt"),
        ('{"prompt": "word1", "answer": "", "unit": "1"}\n', "column answer"),
        ('{"prompt": "word1", "answer": "red"}\n', "column unit"),
        (json.dumps({"prompt": "word1 " * 40, "answer": "red", "unit": "1"}) + "\n", "do not fit into the context"),
    ],
)
def test_a_file_that_is_not_right(refused: Refused, with_file: Callable[[str], str], content: str, words: str) -> None:
    line = refused(with_file(content))
    assert words in line
    assert "other" in line


def test_what_nothing_reads_is_said_before_what_follows_from_it(
    refused: Refused, place: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Prompts that are all alike without a column: the refusal speaks of the prompts, the note of the column."""
    files = [tmp_path / f"{name}.jsonl" for name in ("north", "south", "west", "test")]
    for file in files:
        rows = ({"prompt": "urgent?", "input": f"word{n}", "answer": ("red", "blue")[n % 2]} for n in range(4))
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (f"data.files=[{','.join(map(str, files[:3]))}]", f"data.test_file={files[3]}", "data.columns.unit=null")
    before: list[str] = []
    assert "4 prompts are also in north's file" in refused(*words, shown=before)
    assert "note: nothing reads the columns input of your files" in " ".join(before[0].split())


def test_a_file_that_is_missing(refused: Refused, place: Any, tmp_path: Path) -> None:
    assert "gone.jsonl" in refused(f"data.files=[{place.files[0]},{tmp_path / 'gone.jsonl'},{place.files[2]}]")
    assert "gone.jsonl" in refused(f"data.test_file={tmp_path / 'gone.jsonl'}")


def test_a_label_that_was_never_seen(refused: Refused, tmp_path: Path) -> None:
    test = tmp_path / "test.jsonl"
    test.write_text('{"prompt": "word1", "answer": "mauve", "unit": "new"}\n')
    assert "'mauve'" in refused(f"data.test_file={test}")


def test_a_test_row_longer_than_the_context(refused: Refused, tmp_path: Path) -> None:
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"prompt": "word1 " * 40, "answer": "red", "unit": "new"}) + "\n")
    assert "the test set, record 1" in refused(f"data.test_file={test}")


def test_a_wrong_column(refused: Refused) -> None:
    assert "column question" in refused("data.columns.prompt=question")


def test_models_that_will_not_do(refused: Refused, place: Any, tmp_path: Path, model_without_template: Path) -> None:
    assert "no chat template" in refused(f"model.name={model_without_template}")
    assert "no model folder" in refused(f"model.name={tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(f"model.name={tmp_path / 'empty'}")
    assert "digest" in refused(f"model.sha256={'0' * 64}")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in place.model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 300 if file.suffix == ".safetensors" else None])
    assert "damaged" in refused(f"model.name={broken}")


def test_too_little_memory_and_disk(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_free_memory", lambda: 10**6)
    assert "GB of memory" in refused("model.device=cpu")
    monkeypatch.setattr(workspace, "SMALLEST_DISK", 10**18)
    assert "GB free, a run needs" in refused()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("rouns=3", "unknown key rouns"),
        ("rounds=many", "rounds"),
        ("privacy.epsilon=-1", "privacy.epsilon"),
        ("secagg.threshold=1", "secagg.threshold"),
        ("model.cache_features=true", "model.top_layers"),
    ],
)
def test_settings_that_cannot_be(refused: Refused, setting: str, words: str) -> None:
    assert words in refused(setting)


def test_fewer_than_three_organizations(refused: Refused, place: Any) -> None:
    assert "organization" in refused(f"data.files=[{place.files[0]},{place.files[1]}]")


def test_a_mistake_mended_is_not_another_run(refused: Refused, place: Any, tmp_path: Path) -> None:
    """After the refusal the same folder takes the settings as they should have been."""
    refused(f"data.test_file={tmp_path / 'gone.jsonl'}")
    workspace.open_workspace(place.settings(tmp_path / "run"))
