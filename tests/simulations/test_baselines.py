"""The arms that the federation has to beat, what a run says of them, and validation rows, on the tiny consortium."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.simulations import simulate
from cotune.simulations.consortium import found
from cotune.simulations.corpus import load_corpus
from cotune.simulations.public_arm import PASSES, train_on_public
from cotune.simulations.reporting.report_file import read
from cotune.simulations.tuning import _judged
from cotune.simulations.workspace import open_workspace

ARMS = "simulation.arms=[base,federated,public,probe]"
SMALL = ("model.top_layers=1", "model.cache_features=true", "privacy.sample_rate=1.0")


@pytest.fixture(scope="module")
def files(place: Any, rows: Any) -> tuple[str, str]:
    public, validation = rows(place.root / "public.jsonl", 5, 41), rows(place.root / "validation.jsonl", 7, 42)
    return f"data.public_file={public}", f"data.validation_file={validation}"


@pytest.mark.slow
def test_a_run_reports_baselines_classes_and_forgetting(
    place: Any, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    report = simulate.run(place.settings(run_dir, ARMS, *SMALL, *files))
    said = capsys.readouterr().out
    assert read(run_dir / "report.json") == report
    raw = json.loads((run_dir / "report.json").read_text())
    for name in ("base", "federated", "public", "probe"):
        arm = raw["arms"][name]
        found = arm["classification"]
        assert found["interval"][0] <= arm["accuracy"] <= found["interval"][1]
        assert list(found["by_class"]) == ["blue", "green", "red"]
        assert sum(map(sum, found["confusion"])) == raw["test_rows"] == 24
        assert sum(found["confusion"][place][place] for place in range(3)) == round(24 * arm["accuracy"])
    assert raw["arms"]["public"]["exact_match"] is not None
    assert raw["arms"]["probe"]["exact_match"] is None
    assert raw["arms"]["tfidf"]["classification"] is None
    assert report.forgetting is not None
    assert report.forgetting.base != report.forgetting.tuned
    assert "nats a token" in said
    assert "95% interval" in said
    assert "The linear probe under the same privacy is" in said
    assert (run_dir / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "nats a token" in (run_dir / "release" / "README.md").read_text()


@pytest.mark.slow
def test_no_organization_has_a_part_in_the_public_arm(place: Any, files: tuple[str, str], tmp_path: Path) -> None:
    settings = place.settings(tmp_path / "run", *SMALL, *files)
    corpus, space = load_corpus(settings), open_workspace(settings)
    consortium = found(settings, space, corpus)
    quiet = lambda steps=1, note="": None  # noqa: E731
    rounds, adapter = train_on_public(settings, space.path, consortium, corpus, quiet)
    assert rounds == PASSES * settings.rounds
    assert np.abs(adapter).max() > 0
    nobody = replace(corpus, organizations={}, test=[], public=(), validation=())
    assert (train_on_public(settings, space.path, consortium, nobody, quiet)[1] == adapter).all()
    turned = tuple(replace(row, answer="red") for row in corpus.answered)
    other = train_on_public(settings, space.path, consortium, replace(nobody, answered=turned), quiet)[1]
    assert (other != adapter).any()


@pytest.mark.slow
def test_without_public_text_that_arm_is_left_out(
    place: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = simulate.run(place.settings(tmp_path / "run", "simulation.arms=[public,probe]", *SMALL, "privacy=none"))
    assert "public: not run" in capsys.readouterr().out
    assert report.arms.probe.ran
    assert not report.arms.public.ran


def test_validation_rows_take_the_place_of_the_test_set(place: Any, files: tuple[str, str], tmp_path: Path) -> None:
    tested = load_corpus(place.settings(tmp_path, *files))
    looked = load_corpus(place.settings(tmp_path, *files, "simulation.judge=validation"))
    assert len(tested.test) == 24
    assert looked.test == list(tested.validation)
    assert len(looked.test) == 14
    assert (looked.organizations, looked.public) == (tested.organizations, tested.public)


def test_public_answers_are_kept_apart(place: Any, files: tuple[str, str], tmp_path: Path) -> None:
    corpus = load_corpus(place.settings(tmp_path, *files))
    lines = [json.loads(line) for line in (place.root / "public.jsonl").read_text().splitlines()]
    assert [record.answer for record in corpus.answered] == [line["answer"] for line in lines]
    assert [record.answer for record in corpus.public] == [corpus.labels[row % 3] for row in range(len(lines))]
    assert [record.prompt for record in corpus.answered] == [record.prompt for record in corpus.public]


def test_validation_rows_are_apart(place: Any, rows: Any, tmp_path: Path) -> None:
    copied = tmp_path / "copied.jsonl"
    for other, words in ((place.test, "the test set"), (place.files[1], "south")):
        copied.write_text(Path(other).read_text())
        with pytest.raises(UserError, match=f"data.validation_file: .* in {words}"):
            load_corpus(place.settings(tmp_path, f"data.validation_file={copied}"))
    for other in (place.test, place.files[1]):
        with pytest.raises(UserError, match=r"keep the validation rows apart"):
            place.settings(tmp_path, f"data.validation_file={other}")


def test_tuning_looks_at_validation_rows_where_there_are_some(
    place: Any, files: tuple[str, str], tmp_path: Path
) -> None:
    def judge(*words: str) -> str | None:
        found: str | None = _judged(place.settings(tmp_path, *words)).simulation.judge
        return found

    assert judge() == "test"
    assert judge(files[1]) == "validation"
    assert judge(files[1], "simulation.judge=test") == "test"
    with pytest.raises(UserError, match=r"without data\.validation_file"):
        place.settings(tmp_path, "simulation.judge=validation")
