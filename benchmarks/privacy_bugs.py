"""Planted privacy bugs, and what catches each: a deterministic test, the audit by canaries, or both.

Each bug is planted by replacing a function of the product in a child process. There the tests that should notice run,
and the audit with gradient canaries at a claimed epsilon of 1. The first row is the product as it is: every test of the
other rows passes, and the audit has no alarm.

    python benchmarks/privacy_bugs.py [--only NAME] [--canaries M] [--json]

Exits with 1 where a bug is caught by nothing, or the product as it is by anything.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cotune
import numpy as np
import pytest
import torch
from cotune.attacks.audits import audit_gradients
from cotune.attacks.subject import LARGEST_RANK, coordinates
from cotune.conf.compose import compose
from cotune.conf.terms import terms
from cotune.data.units import Units
from cotune.privacy import accounting, clipping, keystream, mechanism, noise, sampling
from cotune.privacy.terms import PrivacyTerms
from cotune.training import clipped, trainer

ROOT = Path(cotune.__file__).parent
SETTINGS = ["privacy.epsilon=1", "privacy.delta=1e-5", "privacy.sample_rate=0.05", "rounds=200"]

TERMS, NOISE, SAMPLING = (
    "tests/privacy/test_terms.py::",
    "tests/privacy/test_noise.py::",
    "tests/privacy/test_sampling.py::",
)
STEP, CLIPPED = "tests/training/test_private_step.py::", "tests/training/test_clipped.py::"
ACCOUNTING = "tests/privacy/test_accounting.py::"
EMPTY = STEP + "test_an_empty_batch_is_noise_and_nothing_else"
INDEPENDENT = STEP + "test_noise_is_independent_across_steps_and_layers"
MOVED = STEP + "test_adding_a_unit_moves_the_sum_by_at_most_the_sensitivity"
RATE = STEP + "test_units_join_at_the_agreed_rate"


def _replaced(module: Any, name: str, bug: Callable[[Any], Any]) -> None:
    setattr(module, name, bug(getattr(module, name)))


def noise_scaled(factor: float) -> None:
    """The noise itself is too small, wherever it is drawn."""

    def scaled(right: Any) -> Any:
        return lambda size, std: factor * right(size, std)

    for module in (noise, mechanism):
        _replaced(module, "gaussian", scaled)


def terms_scaled(factor: float) -> None:
    """The agreed standard deviation comes out too small."""
    right = PrivacyTerms.noise_std.fget
    PrivacyTerms.noise_std = property(lambda self: factor * right(self))


def clipping_skipped() -> None:
    def unclipped(_right: Any) -> Any:
        return lambda norms, _norm: clipping.Clipping(np.ones(len(norms)), np.zeros(len(norms), bool), 0)

    _replaced(clipped, "clip", unclipped)


def layer_unnoised() -> None:
    def partial(right: Any) -> Any:
        def drawn(size: int, std: float) -> Any:
            draws = right(size, std)
            draws[: size // 8] = 0.0
            return draws

        return drawn

    _replaced(mechanism, "gaussian", partial)


def noise_repeated() -> None:
    _replaced(mechanism, "gaussian", cache)


def key_fixed() -> None:
    def fixed(self: Any) -> None:
        self._encryptor = keystream.Cipher(
            keystream.algorithms.AES(bytes(32)), keystream.modes.CTR(bytes(16))
        ).encryptor()
        self._process = keystream.os.getpid()

    keystream.Keystream._start = fixed


def rate_doubled() -> None:
    """Units join twice as often as is accounted for."""

    def doubled(right: Any) -> Any:
        return lambda n, rate, randomness: right(n, min(1.0, 2 * rate), randomness)

    for module in (sampling, trainer):
        _replaced(module, "poisson_sample", doubled)


def unit_twice() -> None:
    def twice(right: Any) -> Any:
        return lambda *given: 2 * right(*given)

    _replaced(trainer, "pack", twice)


def rows_clipped() -> None:
    """Each row is clipped alone, so that a unit of many rows counts many times."""

    def by_row(right: Any) -> Any:
        def clipped_sum(self: Any, adapter: Any, units: Any, terms: Any, choose: Any, part: Any = None) -> Any:
            whole = self.units
            rows = [row for unit in units for row in self._rows_of(unit, terms.records_per_unit, choose)]
            self.units = Units(tuple(map(str, rows)), tuple((row,) for row in rows))
            try:
                return right(self, adapter, range(len(rows)), terms, choose, part)
            finally:
                self.units = whole

        return clipped_sum

    _replaced(trainer.Trainer, "clipped_sum", by_row)


def metrics_forgotten() -> None:
    """The noise is scaled to the gradient alone; loss and counts ride along for free."""
    PrivacyTerms.sensitivity = property(lambda self: self.max_grad_norm)


def steps_halved() -> None:
    """Accounting counts half of the steps, so that the noise is calibrated to half of them."""

    def halved(right: Any) -> Any:
        return lambda history, delta: right([(sigma, rate, -(-steps // 2)) for sigma, rate, steps in history], delta)

    _replaced(accounting, "_merged", halved)


@dataclass(frozen=True)
class Bug:
    """What goes wrong, how it is planted, and the tests that should notice."""

    name: str
    plant: Callable[[], None]
    tests: tuple[str, ...]


BUGS = (
    Bug("noise a quarter", lambda: noise_scaled(0.25), (NOISE + "test_kolmogorov_and_smirnov_at_any_deviation", EMPTY)),
    Bug("noise half", lambda: noise_scaled(0.5), (NOISE + "test_kolmogorov_and_smirnov_at_any_deviation", EMPTY)),
    Bug("agreed noise half", lambda: terms_scaled(0.5), (TERMS + "test_noise_follows_the_sensitivity",)),
    Bug("clipping skipped", clipping_skipped, (CLIPPED + "test_one_unit_never_exceeds_the_clip_norm", MOVED)),
    Bug("one layer without noise", layer_unnoised, (EMPTY, INDEPENDENT)),
    Bug("same noise in each step", noise_repeated, (EMPTY, INDEPENDENT)),
    Bug("same key in each call", key_fixed, (NOISE + "test_no_call_repeats_another", EMPTY)),
    Bug("sample rate twice", rate_doubled, (SAMPLING + "test_the_rate_is_binomial", RATE)),
    Bug("unit counted twice", unit_twice, (MOVED,)),
    Bug("rows clipped, not units", rows_clipped, (MOVED,)),
    Bug("metrics without noise of their own", metrics_forgotten, (TERMS + "test_noise_follows_the_sensitivity",)),
    Bug("half of the steps accounted", steps_halved, (ACCOUNTING + "test_values_measured_before",)),
)


@dataclass(frozen=True)
class Caught:
    """What a bug came to: tests that failed of those that ran; the audit's bound, claim, excess and alarm."""

    bug: str
    tests: list[str]
    failed: list[str]
    at_least: float
    claimed: float | None
    excess: float | None
    alarm: bool

    @property
    def caught(self) -> bool:
        return self.alarm or bool(self.failed)


class _Outcomes:
    """Collects the tests that failed; a collection error is not a catch but a mistake here."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.split("[")[0]
        if report.failed:
            self.failed.add(name)
        elif report.when == "call":
            self.passed.add(name)


def examine(bug: Bug, canaries: int) -> Caught:
    """Plant a bug in this process, which ends with it, and look for it."""
    bug.plant()
    outcomes = _Outcomes()
    nodes = [f"{ROOT / test.split('::')[0]}::{test.split('::')[1]}" for test in bug.tests]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pytest.main(
            ["-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", f"-c{ROOT / 'pyproject.toml'}", *nodes],
            plugins=[outcomes],
        )
    ran = outcomes.passed | outcomes.failed
    missing = [test for test in bug.tests if test not in ran]
    if missing:
        raise LookupError(f"{missing[0]} did not run")
    settings = compose(SETTINGS)
    agreed = terms(settings, canaries, coordinates(LARGEST_RANK))
    found = audit_gradients(agreed, canaries, settings.rounds, 0.95)
    return Caught(
        bug.name, list(bug.tests), sorted(outcomes.failed), found.at_least, found.claimed, found.excess, found.alarm
    )


def _in_child(bug: Bug, canaries: int, results: Any) -> None:
    torch.set_num_threads(1)
    try:
        results.put(examine(bug, canaries))
    except BaseException as failure:
        results.put(f"{bug.name}: {failure!r}")


def examined(bug: Bug, canaries: int) -> Caught:
    """`examine` in a forked child, so that nothing stays planted here."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_child, args=(bug, canaries, results))
    child.start()
    found = results.get()
    child.join()
    if isinstance(found, str):
        raise SystemExit(found)
    return found


def line(found: Caught) -> str:
    """A row of the table, as Markdown."""
    tests = ", ".join(f"`{test.split('::')[1]}`" for test in found.failed) or "none fails"
    return f"| {found.bug} | {found.at_least:.2f} | {found.excess:.1f} | {'yes' if found.alarm else 'no'} | {tests} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="bugs whose name holds this")
    parser.add_argument("--canaries", type=int, default=6000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    every = tuple(dict.fromkeys(test for bug in BUGS for test in bug.tests))
    chosen = [bug for bug in BUGS if options.only is None or options.only in bug.name]
    healthy = Bug("none", lambda: None, every)
    results = []
    if not options.json:
        print("| planted | epsilon at least (claimed 1) | excess | alarm of the audit | tests that fail |")
        print("|---|---:|---:|---|---|")
    for bug in (healthy, *chosen):
        results.append(examined(bug, options.canaries))
        if not options.json:
            print(line(results[-1]), flush=True)
    if options.json:
        print(json.dumps([asdict(one) | {"caught": one.caught} for one in results], indent=2))
    sys.exit(results[0].caught or not all(one.caught for one in results[1:]))


if __name__ == "__main__":
    main()
