"""`cotune tune`: every point once, kept, in order, and with the noise of the federation that is planned."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.conf.compose import sweep
from cotune.simulations import tuning
from cotune.simulations.tuning_results import Point

pytestmark = pytest.mark.slow

WORDS = ("model.top_layers=1", "model.cache_features=true", "strategy.server_optimizer=sgd", "privacy.sample_rate=1.0")


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


def test_noise_is_that_of_all_members(
    planned: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    plain = tuning._strategy

    def spying(settings: Any, options: Any) -> Any:
        strategy = plain(settings, options)

        class Spy:
            def __getattr__(self, name: str) -> Any:
                return getattr(strategy, name)

            def local(self, trainer: Any, adapter: Any, part: Any, terms: Any, batch: float, random: Any) -> Any:
                seen.append(terms.noise_multiplier)
                assert batch == 3 * 16
                return strategy.local(trainer, adapter, part, terms, batch, random)

        return Spy()

    monkeypatch.setattr(tuning, "_strategy", spying)
    (point,) = tuning.run(planned(), tmp_path / "tune")
    assert seen == [pytest.approx(3**0.5 * point.noise_multiplier)] * 2
    assert point.noise_multiplier > 0


def test_exact_answers_are_those_of_generation(place: Any, planned: Callable[..., Any], tmp_path: Path) -> None:
    """Token by token over the cut, against greedy decoding of the whole model."""
    import numpy as np
    from cotune.evaluation.generate import exact_match
    from cotune.training.adapter import set_flat

    bench = tuning._Bench(tmp_path)
    (settings,) = planned()
    bench.open(settings, lambda steps=1, note="": None)
    for scale in (0.0, 0.5, 2.0):
        adapter = scale * np.random.default_rng(3).standard_normal(bench.judge.schema.dimension).astype(np.float32)
        found = bench.judge.exact(adapter, range(len(bench.corpus.test)))
        set_flat(bench.judge.model, adapter)
        base = bench.judge.base
        expected = exact_match(bench.judge.model, base.tokenizer, bench.corpus.test, 32, 4, 512)
        assert found == pytest.approx(expected)
