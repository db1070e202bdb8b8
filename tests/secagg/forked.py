"""Run tasks in forked children, which have everything that the parent has loaded and may change all of it."""

import os
import pickle
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path


def children(
    tasks: Sequence[Callable[[], object]], workers: int, folder: Path, limit: int | None
) -> list[tuple[object, float]]:
    """Run each task in a forked child, `workers` at a time.

    Args:
        limit: CPU seconds of a child; it is killed after ten times as long by the clock.

    Returns:
        For each task its result (None where the child was killed) and the CPU seconds of the child and its own ones.
    """
    results: list[tuple[object, float]] = [(None, 0.0)] * len(tasks)
    waiting = list(reversed(range(len(tasks))))
    running: dict[int, tuple[int, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number = waiting.pop()
                running[_fork(tasks[number], folder / str(number), limit)] = (number, time.monotonic())
            for pid, (number, began) in list(running.items()):
                ended, _, usage = os.wait4(pid, os.WNOHANG)
                if ended:
                    del running[pid]
                    results[number] = (_taken(folder / str(number)), usage.ru_utime + usage.ru_stime)
                elif limit and time.monotonic() - began > 10 * limit:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
    return results


def _taken(folder: Path) -> object:
    path = folder / "result"
    result = pickle.loads(path.read_bytes()) if path.exists() else None
    shutil.rmtree(folder)
    return result


def _fork(task: Callable[[], object], folder: Path, limit: int | None) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    try:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
        if limit:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        heard, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        result = pickle.dumps(task())
        (folder / "beside").write_bytes(result)
        os.replace(folder / "beside", folder / "result")
    except BaseException:
        os.write(heard, traceback.format_exc().encode())
    finally:
        os._exit(0)
