"""Try mutants: pytest collects once, a first child notes what each test reaches, then one child is forked a mutant.

The first child runs every test and notes which of the lines to be changed it runs, and how long it takes. Then each
mutant's child runs the tests that reach its lines, the likely and short ones first, until one fails.
"""

import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import mutants
import pytest
from forked import children
from hypothesis import HealthCheck, Phase, settings
from mutants import Mutant

TESTS = Path(__file__).parent
ROOT = mutants.FOLDER.parent
# They run processes of their own, which a mutant does not reach; or for a minute; or are about this program.
LEFT_OUT = ("crash", "test_stateful_server.py", "test_mutation_tool.py")
# A test that needs more CPU seconds fails, and so is left out as well.
LONGEST = 4.0
# A mutant that lives through tests of so many seconds, the likely ones first, is alive.
PATIENCE = 8.0
# Module and line.
Line = tuple[str, int]


@dataclass(frozen=True)
class Fate:
    """What became of a mutant.

    Attributes:
        end: "killed", "survived", "unreached" (no test runs the lines) or "time-out".
        test: the test that failed. cpu: seconds of the child. tests: how many were run.
    """

    mutant: Mutant
    end: str
    test: str
    cpu: float
    tests: int

    @property
    def alive(self) -> bool:
        """Whether no test noticed."""
        return self.end in ("survived", "unreached")


@dataclass
class Reach:
    """What one test needs: seconds, and the lines of the room that it runs. Failed where it fails without a mutant."""

    seconds: float = 0.0
    lines: frozenset[Line] = frozenset()
    failed: bool = False

    @property
    def usable(self) -> bool:
        """Whether it can tell a mutant."""
        return not self.failed


class Watch:
    """A plugin of the child: whether a test failed, and which of the wanted lines are run while `trace` is set."""

    def __init__(self, wanted: frozenset[Line] = frozenset()) -> None:
        self.failed = False
        self.lines: set[Line] = set()
        self.prepared: frozenset[Line] = frozenset()
        self._wanted = wanted
        self._missing: dict[CodeType, set[int]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called after setup, call and teardown of a test."""
        self.failed = self.failed or report.failed
        if report.when == "setup":
            self.prepared = frozenset(self.lines)

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """Follow a frame of the room as long as it may still come to a line that was not seen."""
        code = frame.f_code
        if code not in self._missing:
            module = Path(code.co_filename)
            lines = {line for _, _, line in code.co_lines() if (module.stem, line) in self._wanted}
            self._missing[code] = lines if module.parent == mutants.FOLDER else set()
        return self._line if self._missing[code] else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        missing, line = self._missing[frame.f_code], frame.f_lineno
        if line in missing:
            missing.discard(line)
            self.lines.add((Path(frame.f_code.co_filename).stem, line))
        return self._line if missing and line <= max(missing) else None


class Run:
    """A pytest plugin in whose test loop the mutants are tried."""

    def __init__(self, chosen: Sequence[Mutant], workers: int) -> None:
        self.chosen, self.workers = chosen, workers
        self.fates: list[Fate] = []
        self.failing: list[str] = []
        self.cpu = 0.0

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what cannot be read."""
        if report.failed:
            self.failing.append(report.nodeid)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of pytest's own."""
        for item in session.items:
            _shorten(item)
        last = [item for item in session.items if "[hybrid" in item.name]
        first = [item for item in session.items if "[hybrid" not in item.name]
        with tempfile.TemporaryDirectory() as folder:
            fates = self._tried(self.chosen, first, Path(folder))
            alive = [fate.mutant for fate in fates if fate.alive]
            if alive and last:
                fates = [fate for fate in fates if not fate.alive] + self._tried(alive, last, Path(folder))
        self.fates = fates
        return True

    def _tried(self, tried: Sequence[Mutant], items: Sequence[pytest.Item], folder: Path) -> list[Fate]:
        wanted = frozenset(line for mutant in tried for line in mutant.places)
        size = -(-len(items) // self.workers) or 1
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        first = [lambda part=part: _baseline(part, wanted) for part in parts]
        reaches: dict[str, Reach] = {}
        for reached, cpu in children(first, self.workers, folder, None):
            if not isinstance(reached, dict):
                raise pytest.Session.Interrupted("the tests end the process that runs them")
            reaches |= reached
            self.cpu += cpu
        self.failing += [name for name, reach in reaches.items() if reach.failed]
        limit = 60 + int(3 * sum(reach.seconds for reach in reaches.values()))
        orders = [_order(mutant, items, reaches) for mutant in tried]
        tasks = [
            lambda mutant=mutant, order=order: _try(mutant, order) for mutant, order in zip(tried, orders, strict=True)
        ]
        results = children(tasks, self.workers, folder, limit)
        self.cpu += sum(cpu for _, cpu in results)
        return [_fate(*parts, *result) for *parts, result in zip(tried, orders, results, strict=True)]


def _shorten(item: pytest.Item) -> None:
    """Few examples also where a test asks for many."""
    test = getattr(item, "function", None)
    if given := getattr(test, "_hypothesis_internal_use_settings", None):
        few = min(given.max_examples, settings().max_examples)
        test._hypothesis_internal_use_settings = settings(given, max_examples=few)


def _fate(mutant: Mutant, order: Sequence[pytest.Item], result: object, cpu: float) -> Fate:
    if not order:
        return Fate(mutant, "unreached", "", cpu, 0)
    if not isinstance(result, tuple):
        return Fate(mutant, "time-out", "", cpu, len(order))
    test, tests = result
    return Fate(mutant, "killed" if test else "survived", test, cpu, tests)


def _baseline(items: Sequence[pytest.Item], wanted: frozenset[Line]) -> dict[str, Reach]:
    """Run every test once."""
    reaches: dict[str, Reach] = {}
    prepared: dict[Path, set[Line]] = defaultdict(set)
    signal.signal(signal.SIGPROF, _too_long)
    for item, following in _pairs(items):
        watch = Watch(wanted)
        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, LONGEST)
        threading.settrace(watch.trace)
        sys.settrace(watch.trace)
        _run(item, following, watch)
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        reaches[item.nodeid] = Reach(time.process_time() - began, frozenset(watch.lines), watch.failed)
        prepared[item.path] |= watch.prepared
    # What a fixture of a module runs, it runs for each of the module's tests.
    for item in items:
        reaches[item.nodeid].lines |= prepared[item.path]
    return reaches


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {LONGEST} s")


def _pairs(items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    return zip(items, [*items[1:], None], strict=bool(items))


def _run(item: pytest.Item, following: pytest.Item | None, watch: Watch) -> None:
    item.config.pluginmanager.register(watch)
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    item.config.pluginmanager.unregister(watch)


def _try(mutant: Mutant, order: Sequence[pytest.Item]) -> tuple[str, int]:
    """The first test that fails under a mutant, "" where none does; and how many were run."""
    with mutants.applied(mutant):
        for number, (item, following) in enumerate(_pairs(order)):
            watch = Watch()
            _run(item, following, watch)
            if watch.failed:
                return item.nodeid, number + 1
    return "", len(order)


def _order(mutant: Mutant, items: Sequence[pytest.Item], reaches: Mapping[str, Reach]) -> list[pytest.Item]:
    """The tests that run the mutated lines: those that are about this code first, of the others the short ones."""
    able = [i for i in items if (reach := reaches[i.nodeid]).lines & mutant.places and reach.usable]
    able.sort(key=lambda item: (-_about(mutant, item), reaches[item.nodeid].seconds))
    spent = list(accumulate(reaches[item.nodeid].seconds for item in able))
    return [item for item, seconds in zip(able, spent, strict=True) if seconds < PATIENCE]


def _about(mutant: Mutant, item: pytest.Item) -> int:
    """2 for a test that has the code among its parameters, 1 for one that names it, else 0."""
    values = getattr(getattr(item, "callspec", None), "params", {}).values()
    if any(value == mutant.code for value in values if isinstance(value, str)):
        return 2
    code = getattr(getattr(item, "function", None), "__code__", None)
    return int(code is not None and mutant.code in code.co_consts)


def check(chosen: Sequence[Mutant], workers: int) -> Run:
    """Try mutants over the tests of the room, the slow ones left out."""
    quick = settings(
        max_examples=10,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    settings.register_profile("mutation", quick)
    run = Run(chosen, workers)
    options = ["-c", str(ROOT / "pyproject.toml"), "-o", "addopts=", "--import-mode=importlib", "--strict-markers"]
    plugins = [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:terminal",
        "--hypothesis-profile=mutation",
        "-m",
        "not slow",
        "--continue-on-collection-errors",
    ]
    plugins += [f"--ignore={TESTS / name}" for name in LEFT_OUT]
    status = pytest.main([*options, *plugins, str(TESTS)], plugins=[run])
    if not run.fates:
        raise SystemExit(f"error: pytest ended with {status!r}: run pytest tests/secagg")
    return run
