"""The picture: it is a PNG that shows what was run, and nothing that was not."""

import builtins
from dataclasses import replace
from pathlib import Path

import pytest
from cotune.errors import UserError
from cotune.simulations.reporting import curves
from cotune.simulations.reporting import report as reports
from cotune.simulations.reporting.report import Arms, Curves, Report

pytest.importorskip("matplotlib")


@pytest.fixture
def report() -> Report:
    return Report(
        experiment="hospitals",
        seeds=(1,),
        arms=Arms(
            base=reports.measured(0.2, {}), federated=reports.measured(0.4, {}), alone_mean=reports.measured(0.3, {})
        ),
        alone={},
        privacy=reports.private("row", 1e-5, {"a": 8.0}),
        wire=None,
        wall_seconds=1.0,
        wall_seconds_by_phase={},
        test_rows=10,
        generation_rows=0,
        curves=Curves(
            federated=((0, 0.2), (1, 0.3), (2, 0.4)), loss=((1, 2.0), (2, 1.5)), epsilon=((1, 5.0), (2, 8.0))
        ),
        config={},
        versions={},
        rounds=0,
    )


def test_a_png_of_readable_size(tmp_path: Path, report: Report) -> None:
    curves.draw(report, tmp_path / "curves.png")
    content = (tmp_path / "curves.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20]) >= 1200
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_lines_and_labels(report: Report) -> None:
    figure = curves.blank_figure(11, 4.4)
    axes = figure.subplots()
    curves._accuracy(axes, report)
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {"federation", "alone, mean", "base model"}  # pooled was not run
    assert list(lines["federation"].get_ydata()) == [20.0, 30.0, 40.0]
    assert list(lines["base model"].get_ydata()) == [20.0, 20.0]
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_loss_and_epsilon_have_axes_of_their_own(report: Report) -> None:
    figure = curves.blank_figure(11, 4.4)
    axes = figure.subplots()
    curves._loss(axes, report)
    assert "noised" in axes.get_title()
    second = next(other for other in figure.axes if other is not axes)
    assert "epsilon" in second.get_ylabel()
    assert list(second.get_lines()[0].get_ydata()) == [5.0, 8.0]


def test_accuracy_stands_over_the_epsilon_of_its_round(report: Report) -> None:
    axes = curves.blank_figure(5.5, 4.4).subplots()
    curves._bought(axes, report)
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["federation"].get_xdata()) == [5.0, 8.0]  # round 0 had cost nothing that is known
    assert list(lines["federation"].get_ydata()) == [30.0, 40.0]


def test_nothing_run_is_an_empty_picture_not_an_error(tmp_path: Path, report: Report) -> None:
    curves.draw(replace(report, arms=Arms(), curves=Curves()), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


def test_without_matplotlib_one_line_says_so(tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install"):
        curves.draw(report, tmp_path / "curves.png")
