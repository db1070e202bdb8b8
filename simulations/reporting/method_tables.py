"""What `cotune study strategies` writes: all points as JSON, the tables as Markdown, the picture."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any

from ...atomic import write_bytes, write_text
from ...conf.methods import Comparison, Method
from ..method_points import MethodPoint
from .curves import blank_figure

SCHEMA_VERSION = 1


def write_study(
    study: Comparison,
    results: Sequence[MethodPoint],
    searched: Sequence[MethodPoint],
    refused: Mapping[str, str],
    folder: Path,
) -> None:
    """Write strategies.json, table.md, section.md and strategies.png.

    Args:
        results: of the seeds that are reported. searched: of the deal of the choice.
        refused: methods that have no account under these settings, and why.
    """
    facts = {
        "schema_version": SCHEMA_VERSION,
        "settings": [*study.common, *study.given],
        "chosen_on": list(study.chosen_on),
        "methods": {method.name: _described(method) for method in study.methods},
        "refused": dict(refused),
        "results": [point.to_dict() for point in results],
        "searched": [point.to_dict() for point in searched],
    }
    write_text(folder / "strategies.json", json.dumps(facts, indent=1, allow_nan=False) + "\n")
    write_text(folder / "table.md", tables(study, results, refused))
    write_text(folder / "section.md", section(study, results, searched, refused))
    draw(study, results, folder / "strategies.png")


def tables(study: Comparison, results: Sequence[MethodPoint], refused: Mapping[str, str]) -> str:
    """One table for each experiment: a row a method, a column an epsilon."""
    parts: list[str] = []
    for experiment in study.experiments:
        here = [point for point in results if point.place.experiment == experiment]
        if not here:
            continue
        budgets = [f"epsilon {_value(epsilon)}" for epsilon in study.epsilons]
        head = ["method", "charged for", "steps", "numbers sent a round", *budgets]
        rows = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
        for method in study.methods:
            own = [point for point in here if point.place.method == method.name]
            if own:
                rows.append([method.title, method.charged, *_sizes(own), *_cells(study.epsilons, own)])
            elif method.name in refused:
                rows.append([method.title, f"left out: {refused[method.name]}", *[""] * (len(head) - 2)])
        title = f"### {_value(experiment)}, {_seeds(here)}{_trust(here)}"
        parts.append(title + "\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows))
    return "\n".join(parts)


def rates(searched: Sequence[MethodPoint], results: Iterable[MethodPoint]) -> str:
    """What was chosen, out of how many that were tried."""
    counts: dict[tuple[str, str, str], int] = {}
    for point in searched:
        place = point.place
        cell = (place.experiment, place.method, place.epsilon)
        counts[cell] = counts.get(cell, 0) + 1
    lines = ["| experiment | method | epsilon | chosen | rate | tried |\n", "|---|---|---:|---|---:|---:|\n"]
    chosen = {(p.place.experiment, p.place.method, p.place.epsilon): (p.place.tried, p.place.rate) for p in results}
    for (experiment, method, epsilon), (tried, rate) in chosen.items():
        count = counts.get((experiment, method, epsilon), 0)
        lines.append(f"| {_value(experiment)} | {method} | {_value(epsilon)} | {tried} | {rate:g} | {count} |\n")
    return "".join(lines)


def section(
    study: Comparison, results: Sequence[MethodPoint], searched: Sequence[MethodPoint], refused: Mapping[str, str]
) -> str:
    """For docs/results.md."""
    if not results:
        return ""
    point = results[0]
    words = f"""## Published rules under one account

`cotune study strategies` trains every method at the same map (the last `down_proj`) on the same records, with the same
loss and clip norm (but where a note says otherwise), {point.rounds} rounds and every unit in every step, and charges it
for each noised sum that an organization gives away; the count is compared with the charge at each point. Only the
protocol is left out. Accuracy is the mean over seeds with lowest and highest, then the share of answers that are right
word for word. Optimizer and rate of every method were found by the same search on validation rows
(`{" ".join(study.chosen_on)}`). They are none of the test rows of that deal, but may be test or training rows of other
seeds' deals. No method trains on right answers of public rows.

"""
    notes = [f"{method.title} {method.note}" for method in study.methods if method.note and method.name not in refused]
    words += "".join(f"- {fill(note, 117, subsequent_indent='  ')}\n" for note in notes) + ("\n" if notes else "")
    return words + tables(study, results, refused) + "\n### What was chosen\n\n" + rates(searched, results)


def draw(study: Comparison, results: Sequence[MethodPoint], path: Path) -> None:
    """Accuracy against epsilon, one panel an experiment, a line a method, bars from the lowest to the highest seed."""
    shown = [experiment for experiment in study.experiments if any(p.place.experiment == experiment for p in results)]
    if not shown:
        return
    figure = blank_figure(5.5 * len(shown), 4.5)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, experiment in zip(axes, shown, strict=True):
        for method, marker in zip(study.methods, cycle("osD^vPX*"), strict=False):
            _line(axis, method, marker, [p for p in results if p.place.experiment == experiment])
        axis.set_xscale("log")
        ticks = sorted(float(_value(epsilon)) for epsilon in study.epsilons)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel("epsilon")
        axis.set_ylabel("accuracy, %")
        axis.set_title(_value(experiment))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_bytes(path, content.getvalue())


def _line(axis: Any, method: Method, marker: str, points: Sequence[MethodPoint]) -> None:
    by_epsilon: dict[float, list[float]] = {}
    for point in points:
        if point.place.method == method.name:
            by_epsilon.setdefault(float(_value(point.place.epsilon)), []).append(100 * point.accuracy)
    if not by_epsilon:
        return
    places = sorted(by_epsilon)
    means = [fmean(by_epsilon[place]) for place in places]
    below = [mean - min(by_epsilon[place]) for mean, place in zip(means, places, strict=True)]
    above = [max(by_epsilon[place]) - mean for mean, place in zip(means, places, strict=True)]
    axis.errorbar(places, means, yerr=[below, above], marker=marker, capsize=3, label=method.title)


def _sizes(points: Sequence[MethodPoint]) -> list[str]:
    one = points[0]
    return [str(one.charged), f"{one.sent / one.rounds:,.0f}"]


def _cells(epsilons: Sequence[str], points: Sequence[MethodPoint]) -> list[str]:
    cells = []
    for epsilon in epsilons:
        own = [point for point in points if point.place.epsilon == epsilon]
        if not own:
            cells.append("")
            continue
        values = [100 * point.accuracy for point in own]
        spread = f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else ""
        cells.append(f"{fmean(values):.1f}{spread}, exact {100 * fmean(point.exact for point in own):.1f}")
    return cells


def _described(method: Method) -> dict[str, Any]:
    return {
        "title": method.title,
        "paper": method.paper,
        "charged": method.charged,
        "note": method.note,
        "settings": list(method.settings),
        "tried": [{"settings": list(one.settings), "key": one.key, "start": one.start} for one in method.tried],
    }


def _seeds(points: Sequence[MethodPoint]) -> str:
    numbers = sorted({int(_value(point.place.seed)) for point in points})
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _trust(points: Sequence[MethodPoint]) -> str:
    return ", shared noise" if any(point.trust == "honest_majority" for point in points) else ""


def _value(word: str) -> str:
    return word.partition("=")[2]
