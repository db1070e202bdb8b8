"""`cotune tune`: a sweep over settings on public or simulated data, under the account of the run that is planned.

The corpus stands in for records that must not be looked at. Every point trains what the federation would: the union of
the organizations' samples, clipped by unit, with the noise of all of them, by the same strategy, at the noise
multiplier that the planned epsilon, delta, rate and rounds ask for. Only the protocol is left out, so a point takes
seconds where the layers below are cached. Points are scored on the corpus' validation rows, which no result is reported
on, and on its test rows only where it has no others, or where it is told to.
"""

import hashlib
import json
import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from rich.console import Console

from ..atomic import write_text
from ..client.workbench import source_of
from ..conf.schema import Settings
from ..data.corpora.partition import Corpus
from ..errors import UserError
from ..evaluation.labels import Evaluator
from ..privacy.sampling import SystemRandomness
from ..server.exchange import Interrupted
from ..strategies.base import Strategy, split
from ..training.base import BaseModel, load_base
from ..training.schema import initial
from ..training.trainer import Trainer
from .bases import lora_settings, made_basis
from .consortium import declared_units, everything, node_model, terms
from .corpus import load_corpus
from .interruption import stoppable
from .progress import Advance, local_progress
from .rates import settled, strategy_options
from .states import states_folder, trainer_of
from .tuning_results import Point, chart, table
from .workspace import alone_in

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
    if any(settings.strategy.steps_per_round > 1 for settings in planned):
        raise UserError(
            "cotune tune walks through all records at once, which is not what steps at home do",
            "run strategy=fedavg with cotune simulate -m on public data",
        )
    planned = [_judged(settings) for settings in planned]
    rows = " and ".join(sorted({settings.simulation.judge or "" for settings in planned}))
    console.print(
        f"{len(planned)} settings on {planned[0].data.corpus}: a public stand-in. Results are choices made by looking "
        f"at its {rows} rows."
    )
    if any(settings.data.corpus == "files" and settings.simulation.judge == "test" for settings in planned):
        console.print("note: data.validation_file keeps choices apart from the test rows that results are reported on")
    bench, points = _Bench(folder), []
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
    """What a point is found by again: all settings but those that change no number of it."""
    facts = settings.model_dump(mode="json", exclude={"name": True, "run_dir": True, "chat": True, "cache": True})
    for key in ("workers", "threads_per_worker", "object_store_megabytes", "arms", "existing", "generate_rows"):
        facts["simulation"].pop(key)
    facts["version"] = version("cotune")
    data = settings.data
    facts["files"] = [
        (file.stat().st_size, file.stat().st_mtime_ns)
        for file in (*data.files, data.test_file, data.validation_file, data.public_file)
        if file is not None and file.exists()
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _tried(settings: Settings, bench: "_Bench", folder: Path, advance: Advance, stop: threading.Event) -> Point:
    kept = folder / "points" / f"{digest_of(settings)}.json"
    if kept.exists():
        advance(settings.rounds, "tried before")
        return Point.from_dict(json.loads(kept.read_text()))
    point = replace(_train(bench.open(settings, advance), bench, advance, stop), digest=digest_of(settings))
    kept.parent.mkdir(exist_ok=True)
    write_text(kept, json.dumps(point.to_dict(), indent=1, allow_nan=False) + "\n")
    return point


def _train(settings: Settings, bench: "_Bench", advance: Advance, stop: threading.Event) -> Point:
    started = time.monotonic()
    trainer = bench.trainer
    schema, members = trainer.schema, len(bench.corpus.organizations)
    units = list(declared_units(settings, bench.corpus).values())
    agreed = terms(settings, max(units), schema.dimension)
    # Every member adds noise of its own; their sum has this deviation.
    together = replace(agreed, noise_multiplier=math.sqrt(members) * agreed.noise_multiplier)
    batch = agreed.sample_rate * sum(units)
    options = strategy_options(settings, agreed, units)
    strategy = _strategy(settings, options)
    adapter, state = initial(schema, settings.seed), strategy.start(schema.dimension)
    curve: list[tuple[int, float]] = []
    for number in range(1, settings.rounds + 1):
        if stop.is_set():
            raise Interrupted
        part = strategy.trained(schema, number - 1)
        contribution = strategy.local(trainer, adapter, part, together, batch, SystemRandomness())
        adapter, state = strategy.apply(adapter, state, part, split(contribution)[0], batch, 1)
        advance(1, f"epsilon {agreed.epsilon:g}")
        if not np.isfinite(adapter).all():
            break
        if number % settings.simulation.evaluate_every == 0 or number == settings.rounds:
            curve.append((number, bench.evaluator.score(strategy.published(adapter, state)).accuracy))
    last = strategy.published(adapter, state)
    finite = bool(np.isfinite(last).all())
    return Point(
        digest=digest_of(settings),
        settings=settings.model_dump(mode="json"),
        dimension=schema.dimension,
        noise_multiplier=agreed.noise_multiplier,
        accuracy=curve[-1][1] if finite and curve else 0.0,
        exact=bench.judge.exact(last, range(len(bench.corpus.test))) if finite else 0.0,
        curve=tuple(curve),
        seconds=time.monotonic() - started,
    )


def _strategy(settings: Settings, options: dict[str, Any]) -> Strategy:
    rule = settings.strategy
    made: Strategy = instantiate({"_target_": rule.target, **options})
    if made.steps_per_round != rule.steps_per_round:
        raise UserError(f"strategy {rule.target} and its settings differ", "report this")
    return made


class _Bench:
    """What points share: corpus, base model, trainer and judges, kept while the settings they follow from stay.

    Attributes:
        corpus, trainer: of all organizations' records together; a unit belongs to one of them.
        evaluator, judge: of the rows that are looked at, by label and word for word.
    """

    corpus: Corpus
    trainer: Trainer
    evaluator: Evaluator
    judge: Trainer

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._facts: Any = None
        self._dealt: Any = None

    def open(self, settings: Settings, advance: Advance) -> Settings:
        """Make what is not there yet; the settings with nothing left open."""
        means = settings.simulation
        torch.set_num_threads(means.workers * means.threads_per_worker)
        dealt = (settings.data, settings.seed, means.judge)
        if dealt != self._dealt:
            self.corpus, self._dealt = load_corpus(settings), dealt
        settings = settled(settings, list(declared_units(settings, self.corpus).values()))
        facts = (settings.model, *dealt, means.physical_batch_tokens)
        if facts == self._facts:
            return settings
        base = self._base(settings)
        lora = lora_settings(settings)
        if lora.form != "lora":
            lora = replace(lora, basis=made_basis(settings, base, lora, self.corpus))
        folder = states_folder(settings, self._folder)
        quiet: Advance = lambda steps=1, note="": advance(0, note)  # noqa: E731
        self.trainer = trainer_of(settings, base, lora, everything(self.corpus), folder, quiet)
        self.judge = trainer_of(settings, base, lora, self.corpus.test, folder, quiet)
        self.evaluator = Evaluator(
            base,
            lora,
            self.corpus.test,
            self.corpus.labels,
            settings.model.context_length,
            means.evaluation_batch_tokens,
            settings.model.cache_features,
        )
        self._facts = facts
        return settings

    def _base(self, settings: Settings) -> BaseModel:
        """A model of its own for each form: an adapter cannot be taken off again."""
        model = settings.model
        return load_base(source_of(node_model(settings)), settings.cache, model.device, model.dtype)
