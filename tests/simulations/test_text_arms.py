"""Free text through a run: scored, answered, and shown only where the test set is public."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.conf.compose import sweep
from cotune.data.records import Message, Record
from cotune.simulations import simulate, tuning
from cotune.simulations.bases import lora_settings, made_basis
from cotune.simulations.corpus import load_corpus
from cotune.simulations.reporting.report_file import read
from cotune.simulations.reporting.tuning_results import Point
from cotune.simulations.text_arms import asked, retrieved, said
from cotune.training.base import load_base

pytest.importorskip("sacrebleu")

FORM = (
    "data.task=text",
    "model.context_length=48",
    "model.lora.form=ffa",
    "model.lora.targets=[down_proj]",
    "model.lora.rank=6",
    "model.lora.alpha=6",
    "model.basis.vocabulary=0",
    "model.basis.whitening=0.25",
    "model.top_layers=1",
    "model.cache_features=true",
    "privacy.sample_rate=1.0",
    "strategy.server_optimizer=sgd",
    "strategy.learning_rate=2.0",
    "simulation.generate_rows=6",
    "simulation.examples=3",
)


def _write(path: Path, units: int, seed: int) -> Path:
    """The answer says the words of the question backwards."""
    draw = random.Random(seed)
    lines = []
    for unit in range(units):
        words = [f"word{draw.randrange(60)}" for _ in range(draw.randrange(2, 5))]
        lines.append({"prompt": " ".join(words), "answer": " ".join(words[::-1]), "unit": f"{path.stem}/{unit}"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("free")
    files = [_write(root / f"{name}.jsonl", 16, seed) for seed, name in enumerate(("north", "south", "west"))]
    test, public = _write(root / "test.jsonl", 12, 99), _write(root / "public.jsonl", 12, 7)
    names = ",".join(map(str, files))
    return [*FORM, f"data.files=[{names}]", f"data.test_file={test}", f"data.public_file={public}"]


def test_rows_that_are_asked() -> None:
    rows = [Record((Message("user", str(number)),), "a", "u") for number in range(10)]
    assert [row.prompt[0].content for row in asked(rows, 3)] == ["0", "3", "6"]
    assert asked(rows, 99) == rows
    assert asked(rows, 0) == []


def test_the_nearest_training_answer(place: Any, words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    corpus = load_corpus(place.settings(tmp_path, *words))
    known = corpus.organizations["south"][:2]
    corpus = replace(corpus, test=[replace(known[0], group="g"), replace(known[1], answer="something else", group="h")])
    result = retrieved(corpus, 2)
    assert (result["accuracy"], result["by_group"]) == (0.5, {"g": 1.0, "h": 0.0})
    assert result["text"]["perplexity"] is None
    assert 0.3 < result["text"]["chrf"] < 1
    assert "perplexity" not in said(result)
    assert "chrf" not in retrieved(corpus, 0)["text"]


@pytest.mark.slow
@pytest.mark.parametrize("public", [True, False])
def test_a_run_from_files_to_examples(place: Any, words: list[str], tmp_path: Path, public: bool) -> None:
    arms = "simulation.arms=[base,alone,federated,pooled,pooled_without_privacy,tfidf]"
    run_dir = tmp_path / "run"
    further = ["simulation.open_rounds=5", "simulation.open_learning_rate=0.5"]
    report = simulate.run(place.settings(run_dir, *words, arms, *further, f"data.public_test={str(public).lower()}"))
    assert read(run_dir / "report.json") == report
    ran = [arm for arm in (*vars(report.arms).values(), *report.alone.values()) if arm.ran]
    assert len(ran) == 7 + 3
    for arm in ran:
        assert arm.text is not None
        assert arm.text.chrf is not None
        assert arm.text.rouge_l is not None
    assert report.arms.tfidf.text is not None
    assert report.arms.tfidf.text.perplexity is None
    assert report.arms.base.text != report.arms.federated.text
    assert report.arms.pooled_without_privacy.text != report.arms.pooled.text
    assert [point[0] for point in report.curves.federated] == [1, 2]
    kept = {
        arm: sorted((run_dir / "arms" / arm).glob("*.npy"))[-1].stem for arm in ("pooled", "pooled_without_privacy")
    }
    assert kept == {"pooled": "0002", "pooled_without_privacy": "0005"}
    assert all(value > 1 for _, value in report.curves.federated)
    texts = [json.loads(line)["prompt"] for line in Path(words[-2].split("=")[1]).read_text().splitlines()]
    shown = [run_dir / "report.json", run_dir / "run.log", *run_dir.glob("arms/*.json"), *run_dir.glob("release/*")]
    pages = "".join(file.read_text(errors="replace") for file in shown if file.is_file())
    if public:
        assert [example.prompt for example in report.examples] == [texts[place] for place in (0, 4, 8)]
        page = (run_dir / "examples.md").read_text()
        assert all(example.prompt in page for example in report.examples)
    else:
        assert report.examples == ()
        assert not (run_dir / "examples.md").exists()
        assert not [text for text in texts if text in pages]
        answers = [json.loads(file.read_text()) for file in run_dir.glob("arms/*.json")]
        assert not any("answers" in result for result in answers if isinstance(result, dict))
    assert (run_dir / "states").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_tuning_orders_by_what_is_generated(place: Any, words: list[str], tmp_path: Path) -> None:
    given = [word for word in words if not word.startswith("strategy.learning_rate")]
    line = place.words(tmp_path / "unused", *given, "strategy.learning_rate=0.5,5.0")
    found = tuning.run(sweep(line), tmp_path / "tune")
    assert [point.score for point in found] == sorted((point.text or {})["chrf"] for point in found)[::-1]
    assert [Point.from_dict(fields) for fields in json.loads((tmp_path / "tune" / "points.json").read_text())] == found
    silent = tuning.run(sweep([*set(line) - {"simulation.generate_rows=6"}, "simulation.generate_rows=0"]), tmp_path)
    scores = sorted((-((point.text or {})["perplexity"] or 0) for point in silent), reverse=True)
    assert [point.score for point in silent] == scores


@pytest.mark.slow
@pytest.mark.parametrize("source", ["self_written", "random", "public"])
def test_a_basis_without_labels(source: str, place: Any, words: list[str], tmp_path: Path) -> None:
    settings = place.settings(tmp_path, *words, f"model.basis.source={source}")
    corpus = load_corpus(settings)
    base = load_base(settings.model, settings.cache, "cpu", "float32")
    basis = made_basis(settings, base, lora_settings(settings), corpus)
    (given,) = basis.modules.values()
    assert given.inputs.shape == (6, 48)
    assert len(basis.tokens) == 0
    assert made_basis(settings, base, lora_settings(settings), corpus) == basis


@pytest.mark.slow
def test_an_agreed_vocabulary_holds_the_public_answers(place: Any, words: list[str], tmp_path: Path) -> None:
    given = [word for word in words if not word.startswith("model.basis.vocabulary")]
    settings = place.settings(tmp_path, *given, "model.basis.vocabulary=40")
    corpus = load_corpus(settings)
    base = load_base(settings.model, settings.cache, "cpu", "float32")
    basis = made_basis(settings, base, lora_settings(settings), corpus)
    spoken = {token for row in corpus.public for token in base.tokenizer(row.answer)["input_ids"]}
    assert spoken <= set(map(int, basis.tokens))
    assert len(basis.tokens) == max(40, len(spoken) + 1)
    assert np.all(np.diff(basis.tokens) > 0)
