"""`cotune study strategies`: published rules of federated LoRA under privacy, each charged for all that it releases.

Every method trains the same map on the same records with the same loss, clip norm and privacy budget, as the
federation would but without the protocol (`rehearsal`). Its optimizer and rate are found by one procedure
(`rate_search`) on validation rows of which nothing is reported. Finished points are kept: the same command goes on
where it stopped.
"""

import threading
from functools import partial
from itertools import product
from pathlib import Path

from rich.console import Console

from ..conf.methods import Comparison, Method, Tried, refusal
from ..server.exchange import Interrupted
from .interruption import stoppable
from .method_points import MethodPoint, Points
from .progress import local_progress
from .rate_search import search
from .reporting.method_tables import write_study
from .workspace import alone_in

Choice = tuple[Tried, float]
# What a search takes where its start is good.
_LEAST_SEARCHED = 6


def run(study: Comparison, folder: Path) -> None:
    """Choose, train and judge; then strategies.json, table.md, section.md and strategies.png.

    Args:
        folder: where points, cached states and bases are kept. It holds nothing that is private if the corpus is not.

    Raises:
        KeyboardInterrupt: the person stopped it; finished points are kept.
    """
    console = Console(markup=False, emoji=False)
    with alone_in(folder), stoppable(console) as stop:
        try:
            _run(study, folder, console, stop)
        except Interrupted:
            console.print(f"stopped; the same command goes on in {folder}")
            raise KeyboardInterrupt from None


def _run(study: Comparison, folder: Path, console: Console, stop: threading.Event) -> None:
    refused = {method.name: why for method in study.methods if (why := refusal(study, method))}
    for name, why in refused.items():
        console.print(f"{name} is left out: {why}")
    methods = [method for method in study.methods if method.name not in refused]
    console.print(
        f"{len(methods)} methods, {len(study.epsilons)} epsilons, {len(study.seeds)} seeds, "
        f"{len(study.experiments)} corpora; rates are chosen by {' '.join(study.chosen_on)}"
    )
    results: list[MethodPoint] = []
    searched: list[MethodPoint] = []
    with local_progress(console, "strategies", _steps(study, methods)) as advance:
        points = Points(study, folder, advance, stop)
        for experiment in study.experiments:
            # Deal by deal and form by form: what lies below is made once for each.
            chosen: dict[tuple[str, str], Choice] = {}
            for method in methods:
                chosen |= _choices(study, points, method, experiment, searched)
            for seed in study.seeds:
                for method, epsilon in product(methods, study.epsilons):
                    tried, rate = chosen[method.name, epsilon]
                    results.append(points.of(method, tried, rate, experiment, epsilon, seed))
                write_study(study, results, searched, refused, folder)
    console.print((folder / "table.md").read_text(encoding="utf-8"))
    console.print(f"strategies.json, table.md, section.md and strategies.png are in {folder}")


def _choices(
    study: Comparison, points: Points, method: Method, experiment: str, searched: list[MethodPoint]
) -> dict[tuple[str, str], Choice]:
    """The rate for each epsilon: of all that is tried at the largest, then of the better one from its last rate on."""
    found: dict[tuple[str, str], Choice] = {}
    candidates = [(tried, tried.start) for tried in method.tried]
    for epsilon in study.epsilons:
        best: list[tuple[float, Choice]] = []
        for tried, start in candidates:
            score = partial(_score, points, method, tried, experiment, epsilon, searched)
            rate = search(start, score)
            best.append((score(rate), (tried, rate)))
        choice = max(best, key=lambda pair: pair[0])[1]
        found[method.name, epsilon] = choice
        candidates = [choice]
    return found


def _score(
    points: Points,
    method: Method,
    tried: Tried,
    experiment: str,
    epsilon: str,
    searched: list[MethodPoint],
    rate: float,
) -> float:
    point = points.of(method, tried, rate, experiment, epsilon, None)
    if point not in searched:
        searched.append(point)
    return point.score


def _steps(study: Comparison, methods: list[Method]) -> int:
    """Rounds of all points at least: a search may need more."""
    steps = 0
    for method in methods:
        tried = method.tried[0]
        rounds = study.settings(method, tried, tried.start, study.experiments[0], study.epsilons[0]).rounds
        searches = len(method.tried) + len(study.epsilons) - 1
        steps += rounds * (_LEAST_SEARCHED * searches + len(study.epsilons) * len(study.seeds))
    return steps * len(study.experiments)
