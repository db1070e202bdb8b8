"""The picture of a run: test accuracy by round, and the noised training loss with the epsilon spent."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...atomic import write_bytes
from ...errors import UserError
from .report import Point, Report
from .text_tables import is_text


def draw(report: Report, path: Path) -> None:
    """Write a PNG of two panels, and a third where epsilon was spent, atomically.

    Accuracy on the test set by round (of free text its perplexity), of the federation, the mean of the organizations
    alone, the pooled data (where run) and the base model as a line. Training loss decoded from the noised sums, epsilon
    on a second axis. Accuracy against the epsilon that had been spent by then.

    Edge cases: a series with one point, or none while the arm has a final accuracy, is a horizontal dashed line; an
    arm that was not run is absent.

    Raises:
        UserError: matplotlib is not installed.
    """
    panels = 3 if report.curves.epsilon and report.curves.federated else 2
    figure = blank_figure(5.5 * panels, 4.4)
    first, second, *third = figure.subplots(1, panels)
    _accuracy(first, report)
    _loss(second, report)
    for axes in third:
        _bought(axes, report)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_bytes(path, content.getvalue())


def blank_figure(width: float, height: float) -> Any:
    """A figure, in inches, that draws on the Agg canvas whatever backend the user's matplotlib has, without a display.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib is not installed", "pip install 'cotune[study]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _accuracy(axes: Any, report: Report) -> None:
    if is_text(report):
        _perplexity(axes, report)
        return
    arms, curves = report.arms, report.curves
    for points, arm, name, color in (
        (curves.pooled, arms.pooled, "all data pooled (forbidden)", "tab:green"),
        (curves.federated, arms.federated, "federation", "tab:blue"),
        (curves.alone_mean, arms.alone_mean, "alone, mean", "tab:orange"),
        ((), arms.base, "base model", "tab:gray"),
    ):
        if len(points) > 1:
            axes.plot(*_percent(points), color=color, marker="o", markersize=3.5, label=name)
        elif arm.accuracy is not None:
            axes.axhline(100 * arm.accuracy, color=color, linestyle="--", linewidth=1.3, label=name)
    axes.set_title(f"Accuracy on the common test set ({report.test_rows} rows)")
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy (%)")
    _round_axis(axes)
    if axes.has_data():
        axes.legend(loc="best", frameon=True, fontsize=9)


def _perplexity(axes: Any, report: Report) -> None:
    """Of free text: by round, and the arms without rounds as lines, on a logarithmic scale."""
    arms, curves = report.arms, report.curves
    for points, arm, name, color in (
        ((), arms.pooled_without_privacy, "all data pooled, without privacy", "tab:olive"),
        (curves.pooled, arms.pooled, "all data pooled (forbidden)", "tab:green"),
        (curves.federated, arms.federated, "federation", "tab:blue"),
        (curves.alone_mean, arms.alone_mean, "alone, mean", "tab:orange"),
        ((), arms.base, "base model", "tab:gray"),
    ):
        if len(points) > 1:
            axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3.5, label=name)
        elif arm.text is not None and arm.text.perplexity is not None:
            axes.axhline(arm.text.perplexity, color=color, linestyle="--", linewidth=1.3, label=name)
    axes.set_title(f"Perplexity of the common test set's answers ({report.test_rows} rows)")
    axes.set_xlabel("round")
    axes.set_ylabel("perplexity a token")
    _round_axis(axes)
    if axes.has_data():
        axes.set_yscale("log")
        axes.legend(loc="best", frameon=True, fontsize=9)


def _loss(axes: Any, report: Report) -> None:
    loss, epsilon = report.curves.loss, report.curves.epsilon
    handles = []
    if loss:
        rounds, values = zip(*loss, strict=True)
        handles += axes.plot(rounds, values, color="tab:red", marker="o", markersize=3.5, label="training loss")
    noised = " (decoded from noised sums)" if report.privacy.enabled else ""
    axes.set_title(f"Training loss{noised}")
    axes.set_xlabel("round")
    axes.set_ylabel("loss (nats a token)")
    _round_axis(axes)
    if epsilon:
        second = axes.twinx()
        rounds, values = zip(*epsilon, strict=True)
        handles += second.plot(rounds, values, color="tab:purple", linestyle=":", linewidth=2, label="epsilon spent")
        second.set_ylabel("epsilon spent, largest of an organization")
        second.set_ylim(bottom=0, top=1.15 * max(values) or 1)
    if handles:
        axes.legend(handles=handles, loc="upper center", ncols=2, frameon=True, fontsize=9)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.15 * (high - low))


def _bought(axes: Any, report: Report) -> None:
    """Accuracy, or perplexity, by what it had cost; every private arm spends the same in the same rounds."""
    curves, spent, base = report.curves, dict(report.curves.epsilon), report.arms.base
    scale, level, name_of_it = 100, base.accuracy, "accuracy (%)"
    if is_text(report):
        scale, level, name_of_it = 1, None if base.text is None else base.text.perplexity, "perplexity a token"
        axes.set_yscale("log")
    for points, name, color in (
        (curves.pooled, "all data pooled (forbidden)", "tab:green"),
        (curves.federated, "federation", "tab:blue"),
        (curves.alone_mean, "alone, mean", "tab:orange"),
    ):
        known = [(spent[number], scale * value) for number, value in points if number in spent]
        if known:
            axes.plot(*zip(*known, strict=True), color=color, marker="o", markersize=3.5, label=name)
    if level is not None:
        axes.axhline(scale * level, color="tab:gray", linestyle="--", linewidth=1.3, label="base model")
    axes.set_title(f"{name_of_it.split()[0].capitalize()} against epsilon")
    axes.set_xlabel("epsilon spent, largest of an organization")
    axes.set_ylabel(name_of_it)
    axes.set_xlim(left=0)
    axes.grid(visible=True, alpha=0.3)
    axes.spines["top"].set_visible(False)
    if axes.has_data():
        axes.legend(loc="best", frameon=True, fontsize=9)


def _percent(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    return [round_ for round_, _ in points], [100 * value for _, value in points]


def _round_axis(axes: Any) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=True, alpha=0.3)
    axes.spines["top"].set_visible(False)
