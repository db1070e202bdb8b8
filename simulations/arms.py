"""The arms of a run, each kept when it is finished, and the report of all of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ..conf.schema import Settings
from ..data.corpora.corpus import Corpus
from ..data.records import Record
from ..data.units import group
from ..evaluation.tfidf import tfidf_baseline
from ..privacy.accounting import rounded_delta
from ..server.events import RoundEvent
from ..server.exchange import Interrupted
from ..server.run_directory import RunDirectory
from ..strategies.alone import own_gradients
from ..strategies.derived import strategy_of
from . import text_arms
from .assemble import FORGETTING, assemble, published, write_outcome
from .consortium import Consortium, filled_in, found, promised
from .corpus import load_corpus, notes
from .federation import federate
from .judged_rows import JudgedRows
from .local_arm import LocalTask
from .personal_arm import PersonalTask
from .pool import Task, run_all, train_here
from .probe_arm import probe_result
from .progress import Advance, RoundProgress, local_progress
from .public_arm import train_on_public
from .reporting.label_results import forgotten
from .reporting.report import Report
from .reporting.tables import result_table
from .states import STEPS, hand_out
from .workspace import Workspace

OPEN = "pooled_without_privacy"


# A bound that may fail for one in a thousand is worth a word.
_LARGE_DELTA = 1e-3


class Simulation:
    """One run in one folder.

    Args:
        settings: checked. space: its folder. console: where to show. stop: set by Ctrl-C.
        watch: gets the events of federated rounds.
    """

    def __init__(
        self,
        settings: Settings,
        space: Workspace,
        console: Console,
        stop: Any,
        watch: Callable[[RoundEvent], None] = lambda event: None,
    ) -> None:
        self._space, self._console, self._stop, self._watch = space, console, stop, watch
        self._seconds: dict[str, float] = dict(space.result("seconds") or {})
        for note in notes(settings):
            console.print(f"note: {note}")
        self._corpus: Corpus = self._timed("data", lambda: load_corpus(settings))
        self._settings = settings = filled_in(settings, self._corpus)
        what = f"{len(self._corpus.labels)} labels" if self._corpus.labels else "free text"
        console.print(
            f"{len(self._corpus.organizations)} organizations, "
            f"{sum(map(len, self._corpus.organizations.values()))} private records, "
            f"{len(self._corpus.test)} {settings.simulation.judge or 'test'} rows, {what}"
        )
        for name, records in self._corpus.organizations.items():
            if note := group(records).note:
                console.print(f"note: {name}: {note}")
        self._consortium: Consortium = self._timed("model and charter", lambda: found(settings, space, self._corpus))
        charter = self._consortium.charter
        console.print(
            f"{self._consortium.base.name}: {self._consortium.schema.dimension:,} trained parameters; "
            f"charter {charter.digest()[:16]}... signed by all; {promised(charter)}"
        )
        if charter.privacy.enabled and charter.privacy.delta > _LARGE_DELTA:
            console.print(
                f"note: delta {rounded_delta(charter.privacy.delta)} is large, since nobody declares more than "
                f"{max(member.nominal_units for member in charter.members)} units; privacy.delta sets a smaller one, "
                "at the price of more noise"
            )
        if settings.model.cache_features:
            top = settings.model.top_layers
            console.print(
                f"LoRA in the last {'layer' if top == 1 else f'{top} layers'}, over cached features of the frozen "
                "layers below (model.cache_features=true)"
            )
        self._quick = False
        self._rows = JudgedRows(settings, space.path, self._consortium, self._corpus, console, self._going_on)

    def finish(self) -> Report:
        """Run the arms that are missing, then report."""
        arms = self._settings.simulation.arms
        steps: dict[str, Callable[[], None]] = {
            "base": self._base,
            "tfidf": self._tfidf,
            "local": self._local,
            "federated": self._federated,
            "personal": self._personal,
            "public": self._public,
            "probe": self._probe,
        }
        self._timed("hidden states", self._states)
        for name, step in steps.items():
            if name in arms or name == "local":
                self._going_on()
                step()
        done = assemble(self._settings, self._space, self._consortium, self._corpus, self._seconds)
        write_outcome(done, self._settings, self._space, self._consortium, self._corpus)
        self._console.print(result_table(done))
        kept = "report and curves" if done.wire is None else "report, curves and release"
        self._console.print(f"{kept} are in {self._settings.run_dir}")
        return done

    def _states(self) -> None:
        """What the frozen layers give of all records, for the arms that train and are not done."""
        arms = self._settings.simulation.arms
        alone = [f"alone-{name}" for name in self._consortium.homes] if "alone" in arms else []
        trained = [*alone, *(arm for arm in ("federated", "pooled", OPEN) if arm in arms)]
        if not self._settings.model.cache_features or all(self._space.result(arm) is not None for arm in trained):
            return
        pooled = "pooled" in arms or OPEN in arms
        with local_progress(self._console, "hidden states", STEPS) as advance:
            shown = self._until_stopped(advance)
            self._quick = hand_out(self._settings, self._space, self._consortium, self._corpus, pooled, shown)

    def _until_stopped(self, advance: Advance) -> Advance:
        """The same, until Ctrl-C."""

        def go_on(steps: int = 1, note: str = "") -> None:
            self._going_on()
            advance(steps, note)

        return go_on

    def _base(self) -> None:
        self._arm("base", lambda: self._rows.measured([(0, None)]))

    def _tfidf(self) -> None:
        def baseline() -> dict[str, Any]:
            if not self._corpus.labels:
                return text_arms.retrieved(self._corpus, self._settings.simulation.generate_rows)
            records = [record for own in self._corpus.organizations.values() for record in own]
            result = tfidf_baseline(_labelled(records), _labelled(self._corpus.test))
            return {"accuracy": result.accuracy, "by_group": result.by_group}

        self._arm("tfidf", baseline)

    def _local(self) -> None:
        """Train the arms of one data set each, as many at a time as there are workers, and score what they kept."""
        homes: dict[str, Path] = {}
        arms = self._settings.simulation.arms
        # The largest first, so that no worker is left with it at the end.
        homes |= {arm: self._space.pooled for arm in (OPEN, "pooled") if arm in arms}
        if "alone" in arms:
            homes |= {f"alone-{name}": home for name, home in self._consortium.homes.items()}
        homes = {arm: home for arm, home in homes.items() if self._space.result(arm) is None}
        every = self._settings.simulation.evaluate_every
        rounds, means = self._settings.rounds, self._settings.simulation
        tasks = {arm: LocalTask(home, self._space.arms / arm, rounds, every) for arm, home in homes.items()}
        if OPEN in tasks:
            more, rate = means.open_rounds or rounds, means.open_learning_rate
            tasks[OPEN] = replace(tasks[OPEN], private=False, rounds=more, rate=rate)
        untrained = {arm: task for arm, task in tasks.items() if not task.trained}
        self._train(untrained, sum(task.rounds for task in untrained.values()), "local arms", "local arms")
        for arm, task in tasks.items():
            points = [(int(file.stem), np.load(file)) for file in sorted(task.out.glob("*.npy"))]
            self._arm(arm, partial(self._rows.measured, points))

    def _train(self, tasks: Mapping[str, Task], steps: int, phase: str, title: str) -> None:
        """Here, where a step takes a blink, else by workers."""
        workers, base = self._settings.simulation.workers, self._consortium.base

        def train() -> None:
            if self._quick:
                train_here(tasks, steps, base, self._console, self._stop, title)
            else:
                run_all(tasks, steps, workers, self._console, self._stop, title)

        if tasks:
            self._timed(phase, train)

    def _federated(self) -> None:
        if self._space.result("federated") is not None:
            return
        charter = self._consortium.charter
        budget = charter.privacy.epsilon if charter.privacy.enabled else None
        names = tuple(self._consortium.homes)

        def train() -> None:
            homes = tuple(self._consortium.homes.values())
            with RoundProgress(self._console, names, budget) as progress:

                def show(event: RoundEvent) -> None:
                    progress.show(event)
                    self._watch(event)

                federate(self._settings, self._space, charter, homes, show, self._stop)

        self._timed("federated", train)
        run = RunDirectory(self._space.rounds, charter.digest())
        committed = run.committed()
        every, last = self._settings.simulation.evaluate_every, len(committed)
        if last < charter.rounds:
            self._console.print(
                f"the federation ended after {last} of {charter.rounds} rounds: too few organizations say that they "
                f"have budget left ({self._space.log} names the others); simulation.existing=fresh starts over"
            )
        points = [
            (number + 1, published(charter, run.load(number)))
            for number in committed
            if (number + 1) % every == 0 or number + 1 == last
        ]
        consortium = self._consortium
        self._space.keep(FORGETTING, self._timed("evaluation", lambda: forgotten(consortium, points[-1][1])))
        self._arm("federated", lambda: self._rows.measured(points))

    def _personal(self) -> None:
        """What each organization makes of the federation's adapter for itself, on its own rows and on all."""
        charter = self._consortium.charter
        if not charter.personal_steps and not own_gradients(charter, strategy_of(charter)):
            self._console.print(
                "personal: not run, the charter plans no personal steps, and no gradients can be followed"
            )
            return
        ended = len(RunDirectory(self._space.rounds, charter.digest()).committed()) < charter.rounds
        arms = {f"personal-{name}": home for name, home in self._consortium.homes.items()}
        tasks = {arm: PersonalTask(home, self._space.arms / arm, ended) for arm, home in arms.items()}
        untaken = {arm: task for arm, task in tasks.items() if not task.kept and self._space.result(arm) is None}
        self._train(untaken, len(untaken) * (charter.personal_steps or 1), "personal", "personal adapters")
        for arm, task in tasks.items():
            points = [(number, np.load(file)) for number, file in task.kept]
            if points:
                self._arm(arm, partial(self._rows.measured, points))
            else:
                self._console.print(f"{arm}: no budget was left for a personal step, or nothing was contributed")

    def _public(self) -> None:
        if not self._corpus.answered:
            self._console.print("public: not run, no right answers of public rows are known")
            return

        def measure() -> dict[str, Any]:
            own, corpus = self._space.path, self._corpus
            return self._rows.measured([train_on_public(self._settings, own, self._consortium, corpus, self._going_on)])

        self._arm("public", measure)

    def _probe(self) -> None:
        if not self._corpus.labels:
            self._console.print("probe: not run, it tells labels apart and there are none")
            return
        own = self._space.path
        self._arm("probe", lambda: probe_result(self._settings, own, self._consortium, self._corpus, self._going_on))

    def _going_on(self, steps: int = 1, note: str = "") -> None:
        """Shows nothing, and ends the run after Ctrl-C."""
        if self._stop.is_set():
            raise Interrupted

    def _arm(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure an arm that has no result yet, and keep it."""
        if self._space.result(name) is not None:
            return
        self._going_on()
        result = self._timed("evaluation", measure)
        self._space.keep(name, result)
        words = text_arms.said(result) if "text" in result else f"accuracy {100 * result['accuracy']:.1f}%"
        self._console.print(f"{name}: {words}")

    def _timed(self, phase: str, work: Callable[[], Any]) -> Any:
        """Do something, and add its seconds to the phase, also where it was interrupted."""
        started = time.monotonic()
        try:
            return work()
        finally:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + time.monotonic() - started
            if self._space.begun:
                self._space.keep("seconds", self._seconds)


def _labelled(records: list[Record]) -> list[Record]:
    return [replace(record, label=record.answer) for record in records]
