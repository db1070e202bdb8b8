"""Worker processes: the arm that failed is the one that is heard, a stop reaches all, none outlives the main process.

Workers start by spawn, so what they run is a module written for the test and found through its path.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.errors import UserError
from cotune.server.exchange import Interrupted
from cotune.simulations import pool
from rich.console import Console

pytestmark = pytest.mark.slow

ARMS = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from cotune.errors import UserError
from cotune.simulations.interruption import StoppedError

@dataclass(frozen=True)
class Task:
    # Not a LocalTask: to read one, each worker would import torch.
    out: Path

def work(name, task, news, flag):
    if flag.is_set():
        raise StoppedError
    (task.out / name).write_text("begun")
    for number in range(1, 400):
        if name == "dies":
            os._exit(9)
        if name == "fails":
            raise UserError("fails: no data", "bring some")
        news.put((1, name))
        if flag.is_set():
            raise StoppedError
        if name.startswith("quick"):
            break
        time.sleep(0.05)
    return [number]
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, list[int]]]:
    (tmp_path / "arms_for_pool.py").write_text(ARMS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import arms_for_pool

    monkeypatch.setattr(pool, "_work", arms_for_pool.work)

    def call(*names: str, stop: threading.Event | None = None) -> dict[str, list[int]]:
        tasks = {name: arms_for_pool.Task(tmp_path) for name in names}
        return pool.run_all(tasks, 1, 2, Console(quiet=True), stop or threading.Event())

    return call


def test_all_results_by_name(run: Callable[..., dict[str, list[int]]]) -> None:
    assert run() == {}
    assert run("quick one", "quick two", "quick three") == {"quick one": [1], "quick two": [1], "quick three": [1]}


def test_the_failure_is_heard_and_stops_the_others(run: Callable[..., dict[str, list[int]]], tmp_path: Path) -> None:
    """The first of the arms is stopped because of the second; the third never begins."""
    started = time.monotonic()
    with pytest.raises(UserError, match=r"^fails: no data: bring some$"):
        run("long", "fails", "long too", "long as well")
    assert time.monotonic() - started < 60
    assert not (tmp_path / "long as well").exists()


def test_a_worker_tells_its_rounds_and_how_far_the_hidden_states_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(_task: Any, tell: Any, progress: Any, _base: Any) -> list[int]:
        for done in range(0, 301, 10):
            progress("hidden states", done, 300)
            progress("hidden states", done, 300)
        progress("units", 1, 2)
        tell(1, 0.5)
        return [1]

    monkeypatch.setattr(pool, "train", train)
    news: queue.Queue[tuple[int, str]] = queue.Queue()
    task = pool.LocalTask(Path("home"), Path("out"), 1, 1)
    assert pool._work("alder", task, news, threading.Event()) == [1]
    told = [news.get_nowait() for _ in range(news.qsize())]
    assert [note for _, note in told[:2]] == [
        "alder: hidden states 0%",
        "alder: hidden states 3%",
    ]
    assert len(told) == 32
    assert [steps for steps, _ in told] == [0] * 31 + [1]
    assert told[-1][1] == "alder round 1, loss 0.500 (noised)"


def test_a_worker_that_is_killed_is_one_line(run: Callable[..., dict[str, list[int]]]) -> None:
    with pytest.raises(UserError, match="want of memory"):
        run("dies", "long")


def test_the_stop_event_ends_all(run: Callable[..., dict[str, list[int]]], tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Thread(target=lambda: (_until(lambda: (tmp_path / "long").exists()), stop.set())).start()
    with pytest.raises(Interrupted):
        run("long", "long too", stop=stop)


def test_no_worker_outlives_a_killed_main_process(tmp_path: Path) -> None:
    (tmp_path / "arms_for_pool.py").write_text(ARMS)
    (tmp_path / "main.py").write_text(
        "import threading\nfrom pathlib import Path\nfrom rich.console import Console\n"
        "import arms_for_pool\n"  # the pool inside, since each worker reads this file again
        "if __name__ == '__main__':\n    from cotune.simulations import pool\n"
        "    pool._work = arms_for_pool.work\n    here = Path(__file__).parent\n"
        "    tasks = {name: arms_for_pool.Task(here) for name in ('long', 'long too')}\n"
        "    pool.run_all(tasks, 1, 2, Console(quiet=True), threading.Event())\n"
    )
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")], env={**os.environ, "COTUNE_TEST_MARK": mark}
    )
    _until(lambda: (tmp_path / "long").exists() or process.poll() is not None)
    assert len(_marked(mark)) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    _until(lambda: not _marked(mark), 10)
    assert _marked(mark) == []


def _until(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.05)


def _marked(mark: str) -> list[str]:
    """Ids of living processes that inherited our mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found
