"""The federated arm with real processes: a worker that is killed costs its members the round, not the run."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from cotune.privacy.ledger import Ledger
from cotune.server.events import RoundEvent
from cotune.server.run_directory import RunDirectory
from cotune.simulations.consortium import found
from cotune.simulations.corpus import load_corpus
from cotune.simulations.federation import federate
from cotune.simulations.workspace import open_workspace

pytestmark = pytest.mark.slow


def test_a_run_goes_on_after_its_workers_were_killed(place: Any, rows: Callable[..., Path], tmp_path: Path) -> None:
    """kill -9 between two messages of a round: before members train, before they send, before they sign the survivors.

    Who is asked by the dead worker misses that round, or what is left of it, and takes part in the next.
    """
    files = [*place.files, rows(tmp_path / "east.jsonl", 16, 3)]
    words = (f"data.files=[{','.join(map(str, files))}]", "rounds=5", "simulation.arms=[federated]")
    settings = place.settings(tmp_path / "run", *words)
    space = open_workspace(settings)
    made = found(settings, space, load_corpus(settings))
    killed: dict[int, str] = {}

    def watch(event: RoundEvent) -> None:
        phase = {2: "train", 3: "mask", 4: "survive"}.get(event.round)
        if phase == event.phase and event.round not in killed:
            process = _workers()[0]
            killed[event.round] = phase
            process.kill()
            process.wait(20)

    federate(settings, space, made.charter, tuple(made.homes.values()), watch, threading.Event())
    assert killed == {2: "train", 3: "mask", 4: "survive"}
    run = RunDirectory(space.rounds, made.charter.digest())
    survivors = [len(run.load(number).survivors) for number in run.recorded()]
    assert survivors == [4, 3, 3, 4, 4]
    assert {noted.attempt for noted in run.attempts()} == {0}
    for home in made.homes.values():
        ledger = Ledger(home / "ledger.sqlite")
        ledger.verify()
        (account,) = ledger.statement()
        assert account.spent_epsilon <= account.budget_epsilon
    assert "another worker is started" in space.log.read_text()


def _workers() -> list[psutil.Process]:
    """The simulation's worker processes, oldest first."""
    found = [child for child in psutil.Process().children(recursive=True) if "ray::_Node" in " ".join(_words(child))]
    return sorted(found, key=lambda process: process.create_time())


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
