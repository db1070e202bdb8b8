"""`cotune tune`: a sweep over settings on public or simulated data, under the account of the run that is planned.

The corpus stands in for records that must not be looked at. Every point trains what the federation would: each
organization's samples, clipped by unit, with its noise, by the same strategy, at the noise multiplier that the planned
epsilon, delta, rate and rounds ask for. Only the protocol is left out (`rehearsal`), so a point takes seconds where the
layers below are cached. Points are scored on the corpus' validation rows, which no result is reported on, and on its
test rows only where it has no others, or where it is told to.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ..atomic import write_text
from ..conf.schema import Settings
from ..server.exchange import Interrupted
from .bench import Bench, file_facts
from .code_version import code_version
from .interruption import stoppable
from .progress import Advance, local_progress
from .reporting.tuning_results import Point, chart, table
from .workspace import MEANS, alone_in

logger = logging.getLogger("cotune.simulations")


def run(planned: Sequence[Settings], folder: Path) -> list[Point]:
    """Try every setting that was not tried before, in this process; then the table, points.json and curves.png.

    Args:
        planned: as `conf.compose.sweep` gives them.
        folder: where points, cached states and bases are kept. It holds nothing that is private if the corpus is not.

    Returns:
        All points, the best first.

    Raises:
        KeyboardInterrupt: the person stopped it; finished points are kept.
    """
    console = Console(markup=False, emoji=False)
    with alone_in(folder), stoppable(console) as stop:
        try:
            return _run(planned, folder, console, stop)
        except Interrupted:
            console.print(f"stopped; the same command goes on in {folder}")
            raise KeyboardInterrupt from None


def _run(planned: Sequence[Settings], folder: Path, console: Console, stop: threading.Event) -> list[Point]:
    planned = [_judged(settings) for settings in planned]
    rows = " and ".join(sorted({settings.simulation.judge or "" for settings in planned}))
    console.print(
        f"{len(planned)} settings on {planned[0].data.corpus}: a public stand-in. Results are choices made by looking "
        f"at its {rows} rows."
    )
    if any(settings.data.corpus == "files" and settings.simulation.judge == "test" for settings in planned):
        console.print("note: data.validation_file keeps choices apart from the test rows that results are reported on")
    bench, points = Bench(folder), []
    with local_progress(console, "tune", sum(settings.rounds for settings in planned)) as advance:
        for settings in planned:
            points.append(_tried(settings, bench, folder, advance, stop))
    points.sort(key=lambda point: (-point.score, point.digest))
    console.print(table(points))
    write_text(folder / "points.json", json.dumps([point.to_dict() for point in points], indent=1) + "\n")
    chart(points, folder / "curves.png")
    console.print(f"points.json and curves.png are in {folder}")
    return points


def _judged(settings: Settings) -> Settings:
    """The settings with the rows to score on: those that are set, else validation rows where there are some."""
    data, means = settings.data, settings.simulation
    found = "test" if data.corpus == "files" and data.validation_file is None else "validation"
    return settings.model_copy(update={"simulation": means.model_copy(update={"judge": means.judge or found})})


def digest_of(settings: Settings) -> str:
    """What a point is found by again: the code, and all settings but those that change no number of it."""
    facts = settings.model_dump(mode="json", exclude={"name": True, "run_dir": True, "chat": True, "cache": True})
    unread = (*MEANS, "arms", "existing", "examples")
    # Free text is answered for the results, labels are not.
    for key in unread if settings.data.task == "text" else (*unread, "generate_rows"):
        facts["simulation"].pop(key)
    facts["version"] = code_version()
    facts["files"] = file_facts(settings)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _tried(settings: Settings, bench: Bench, folder: Path, advance: Advance, stop: threading.Event) -> Point:
    kept = folder / "points" / f"{digest_of(settings)}.json"
    if kept.exists():
        advance(settings.rounds, "tried before")
        return Point.from_dict(json.loads(kept.read_text()))
    point = replace(_train(bench.open(settings, advance), bench, advance, stop), digest=digest_of(settings))
    kept.parent.mkdir(exist_ok=True)
    write_text(kept, json.dumps(point.to_dict(), indent=1, allow_nan=False) + "\n")
    return point


def _train(settings: Settings, bench: Bench, advance: Advance, stop: threading.Event) -> Point:
    started = time.monotonic()
    agreed = bench.agreed(settings)
    note = f"epsilon {agreed.epsilon:g}"
    options = bench.options(settings, agreed)
    found = bench.rehearsed(settings, agreed, lambda: advance(1, note), stop, bench.scored)
    return Point(
        digest=digest_of(settings),
        settings=settings.model_dump(mode="json"),
        dimension=bench.trainer.schema.dimension,
        noise_multiplier=agreed.noise_multiplier,
        strategy=options,
        clipped=found.clipped,
        **bench.judged(found.adapter, found.curve[-1][1] if found.finite and found.curve else None),
        curve=found.curve,
        seconds=time.monotonic() - started,
    )
