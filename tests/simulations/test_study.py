"""The study merges the seeds of each experiment; and a report is put together from whatever arms there are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cotune.conf.schema import Settings
from cotune.errors import UserError
from cotune.simulations import study
from cotune.simulations.assemble import assemble, write_outcome
from cotune.simulations.consortium import found
from cotune.simulations.corpus import load_corpus
from cotune.simulations.reporting.report import Arm, Arms, Curves, Report, measured, not_private
from cotune.simulations.reporting.report_file import read
from cotune.simulations.workspace import open_workspace


def _report(settings: Settings) -> Report:
    accuracy = 0.5 + settings.seed / 100
    return Report(
        experiment=settings.name,
        seeds=(settings.seed,),
        arms=Arms(base=measured(0.3, {}), federated=measured(accuracy, {})),
        alone={},
        privacy=not_private("example"),
        wire=None,
        wall_seconds=10.0,
        wall_seconds_by_phase={"federated": 10.0},
        test_rows=24,
        generation_rows=0,
        curves=Curves(),
        versions={},
        rounds=0,
        config=settings.model_dump(mode="json", by_alias=True),
    )


def test_seeds_are_merged_by_experiment(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study.simulate, "run", _report)
    planned = [
        place.settings(tmp_path / f"{name}-{seed}", f"name={name}", f"seed={seed}")
        for name in ("one", "two")
        for seed in (1, 2, 3)
    ]
    study.run(planned, tmp_path / "study")
    merged = read(tmp_path / "study" / "one.json")
    assert merged.seeds == (1, 2, 3)
    assert merged.arms.federated.accuracy == pytest.approx(0.52)
    assert merged.arms.federated.spread == pytest.approx((0.51, 0.53))
    assert not merged.arms.pooled.ran
    assert merged.wall_seconds == 30
    table = (tmp_path / "study" / "table.md").read_text()
    assert "one" in table
    assert "two" in table


def test_runs_that_are_not_alike_are_not_merged(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study.simulate, "run", _report)
    planned = [place.settings(tmp_path / "a"), place.settings(tmp_path / "b", "seed=2", "rounds=7")]
    with pytest.raises(UserError, match="rounds"):
        study.run(planned, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_arms_that_were_not_run_stay_without_a_number(place: Any, tmp_path: Path) -> None:
    settings = place.settings(tmp_path / "run", "simulation.arms=[base]")
    space, corpus = open_workspace(settings), load_corpus(settings)
    consortium = found(settings, space, corpus)
    nothing = assemble(settings, space, consortium, corpus, {})
    assert nothing.arms == Arms()
    assert (nothing.wire, nothing.alone) == (None, {})

    result = {"accuracy": 0.25, "by_group": {}, "nll": 1.0, "curve": [[1, 0.2], [2, 0.25]]}
    space.keep("base", result)
    space.keep("alone-south", result)
    some = assemble(settings, space, consortium, corpus, {"data": 1.0})
    assert some.arms.base.accuracy == 0.25
    assert not some.arms.federated.ran
    assert some.curves == replace(nothing.curves, alone_mean=((1, 0.2), (2, 0.25)))
    assert isinstance(some.alone["south"], Arm)
    write_outcome(some, settings, space, consortium, corpus)
    assert read(space.report) == some
    assert space.curves.exists()
    assert not space.release.exists()
