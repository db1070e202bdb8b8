"""`cotune tune`: every point once, kept, in order, and with the noise of the federation that is planned."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.conf.compose import sweep
from cotune.simulations import tuning
from cotune.simulations.bench import Bench
from cotune.simulations.rehearsal import AtHome
from cotune.simulations.reporting.tuning_results import Point

pytestmark = pytest.mark.slow

WORDS = (
    "simulation.workers=1",
    "model.top_layers=1",
    "model.cache_features=true",
    "strategy.server_optimizer=sgd",
    "privacy.sample_rate=1.0",
)


@pytest.fixture
def planned(place: Any, tmp_path: Path) -> Callable[..., Any]:
    return lambda *more: sweep(place.words(tmp_path / "unused", *WORDS, *more))


def test_points_are_tried_once_and_ordered(
    planned: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tune"
    found = tuning.run(planned("strategy.learning_rate=0.001,2.0", "rounds=1,3"), folder)
    assert len(found) == 4
    assert [point.score for point in found] == sorted((point.score for point in found), reverse=True)
    assert {len(point.curve) for point in found} == {1, 3}
    assert "best first" in capsys.readouterr().out
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [Point.from_dict(fields) for fields in json.loads((folder / "points.json").read_text())] == found
    monkeypatch.setattr(tuning, "_train", None)
    assert tuning.run(planned("strategy.learning_rate=0.001,2.0", "rounds=1,3"), folder) == found


def test_a_rate_that_is_too_high_ends_its_point_alone(
    planned: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The adapter is finite, and the model gives no numbers with it."""
    found = tuning.run(planned("strategy.learning_rate=0.05,1e30", "rounds=1"), tmp_path / "tune")
    assert [(point.strategy["learning_rate"], point.score > 0) for point in found] == [(0.05, True), (1e30, False)]
    assert all(point.clipped is None or 0 <= point.clipped <= 1 for point in found)
    assert "1e+30" in capsys.readouterr().out


def test_points_of_other_code_are_other_points(
    planned: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings,) = planned()
    before = tuning.digest_of(settings)
    assert tuning.digest_of(settings) == before
    monkeypatch.setattr(tuning, "code_version", lambda: "0.1.0 another")
    assert tuning.digest_of(settings) != before


def test_every_organization_adds_the_noise_that_is_calibrated(
    planned: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    plain = AtHome.private_sum

    def spying(self: AtHome, adapter: Any, terms: Any, *rest: Any) -> Any:
        seen.append(terms.noise_multiplier)
        return plain(self, adapter, terms, *rest)

    monkeypatch.setattr(AtHome, "private_sum", spying)
    (point,) = tuning.run(planned(), tmp_path / "tune")
    assert seen == [point.noise_multiplier] * 3 * 2
    assert point.noise_multiplier > 0


def test_steps_at_home_are_paid_for(place: Any, tmp_path: Path) -> None:
    """Two local steps in each of two rounds ask for the noise of four."""
    words = [word for word in WORDS if "server_optimizer" not in word]
    given = place.words(tmp_path / "unused", *words, "strategy=fedavg", "strategy.local_learning_rate=0.1")
    given = [word for word in given if not word.startswith("strategy.learning_rate")]
    (two,) = tuning.run(sweep([*given, "strategy.local_steps=2"]), tmp_path / "tune")
    (one,) = tuning.run(sweep([*given, "strategy.local_steps=1", "rounds=4"]), tmp_path / "tune")
    assert two.noise_multiplier == one.noise_multiplier


def test_exact_answers_are_those_of_generation(place: Any, planned: Callable[..., Any], tmp_path: Path) -> None:
    """Token by token over the cut, against greedy decoding of the whole model."""
    import numpy as np
    from cotune.evaluation.generate import exact_match
    from cotune.training.adapter import set_flat

    bench = Bench(tmp_path)
    (settings,) = planned()
    bench.open(settings, lambda steps=1, note="": None)
    for scale in (0.0, 0.5, 2.0):
        adapter = scale * np.random.default_rng(3).standard_normal(bench.judge.schema.dimension).astype(np.float32)
        found = bench.judge.exact(adapter, range(len(bench.corpus.test)))
        set_flat(bench.judge.model, adapter)
        base = bench.judge.base
        expected = exact_match(bench.judge.model, base.tokenizer, bench.corpus.test, 32, 4, 512)
        assert found == pytest.approx(expected)
