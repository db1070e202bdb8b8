"""The arms that need no federation, in worker processes or here, with progress and a clean stop."""

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.managers import SyncManager
from typing import Any

import torch
from rich.console import Console

from ..client.workbench import Progress
from ..errors import UserError
from ..server.exchange import Interrupted
from ..training.base import BaseModel
from ..training.trainer import HIDDEN_STATES
from .interruption import StoppedError, follow_main_process, uninterrupted
from .local_arm import LocalTask, train
from .personal_arm import PersonalTask, personalize
from .progress import Advance, local_progress

POLL_SECONDS = 0.2
Task = LocalTask | PersonalTask


def run_all(
    tasks: Mapping[str, Task],
    steps: int,
    workers: int,
    console: Console,
    stop: threading.Event,
    title: str = "local arms",
) -> dict[str, list[int]]:
    """Train several arms at a time.

    Args:
        tasks: name -> task. steps: of all together. workers: processes. title: of the bar.
        stop: ends all of them after their current physical batch.

    Returns:
        name -> the rounds whose adapters were kept.

    Raises:
        Interrupted: `stop` was set. UserError: what an arm raised.
    """
    if not tasks:
        return {}
    with _manager() as manager:
        news, flag = manager.Queue(), manager.Event()
        with _executor(workers) as pool:
            futures = _submit(pool, tasks, news, flag)
            with local_progress(console, title, steps) as advance:
                _follow(futures, news, flag, advance, stop)
            if stop.is_set():
                raise Interrupted
            return _results(futures)


def train_here(
    tasks: Mapping[str, Task],
    steps: int,
    base: BaseModel,
    console: Console,
    stop: threading.Event,
    title: str = "local arms",
) -> None:
    """The same one after the other in this process: for arms that train faster than a process starts.

    Args:
        base: the model, with the adapter attached. The rest as `run_all`.
    """
    threads = torch.get_num_threads()
    try:
        with local_progress(console, title, steps) as advance:
            for name, task in tasks.items():
                _train_one(name, task, base, advance, stop)
    finally:
        torch.set_num_threads(threads)  # an organization works with those of its own settings


def _train_one(name: str, task: Task, base: BaseModel, advance: Advance, stop: threading.Event) -> None:
    def go_on() -> None:
        if stop.is_set():
            raise Interrupted

    def tell(number: int, loss: float) -> None:
        advance(1, f"{name} round {number}, loss {loss:.3f} (noised)")
        go_on()

    _train(task, tell, lambda what, done, of: go_on(), base)


def _train(
    task: Task, tell: Callable[[int, float], None], progress: Progress, base: BaseModel | None = None
) -> list[int]:
    if isinstance(task, PersonalTask):
        return personalize(task, tell, progress, base)
    return train(task, tell, progress, base)


def _follow(
    futures: Mapping[str, Future[list[int]]], news: Any, flag: Any, advance: Any, stop: threading.Event
) -> None:
    """Show progress until all have ended; the first failure stops the others."""
    while not all(future.done() for future in futures.values()):
        failed = any(future.done() and future.exception() is not None for future in futures.values())
        if stop.is_set() or failed:
            flag.set()
        _drain(news, advance)
    # Where a worker was killed, all futures have failed, and the other workers still train.
    flag.set()
    _drain(news, advance)


def _submit(pool: ProcessPoolExecutor, tasks: Mapping[str, Task], news: Any, flag: Any) -> dict[str, Future[list[int]]]:
    try:
        with uninterrupted():
            futures = {name: pool.submit(_work, name, task, news, flag) for name, task in tasks.items()}
            # A submission wakes the executor before it starts a worker: without one more, the death of the worker
            # started last would go unnoticed until another one has finished.
            pool.submit(int)
    except BrokenProcessPool as error:
        raise _killed() from error
    return futures


def _killed() -> UserError:
    return UserError(
        "a worker process was ended from outside, most likely for want of memory",
        "set simulation.workers=1 or a smaller simulation.physical_batch_tokens",
    )


def _results(futures: Mapping[str, Future[list[int]]]) -> dict[str, list[int]]:
    """What all arms returned, or what the first that failed raised: the others only stopped because of it."""
    failures = [error for future in futures.values() if (error := future.exception()) is not None]
    for error in failures:
        if isinstance(error, BrokenProcessPool):
            raise _killed() from error
        if not isinstance(error, StoppedError):
            raise error
    return {name: future.result() for name, future in futures.items()}


def _drain(news: Any, advance: Any) -> None:
    wait = True
    while True:
        try:
            steps, note = news.get(wait, POLL_SECONDS)
        except queue.Empty:
            return
        wait = False
        advance(steps, note)


def _work(name: str, task: Task, news: Any, flag: Any) -> list[int]:
    """`news` gets (rounds done, note for the bar)."""
    said = -1

    def go_on() -> None:
        if flag.is_set():
            raise StoppedError

    def progress(what: str, done: int, of: int) -> None:
        nonlocal said
        go_on()
        if what == HIDDEN_STATES and 100 * done // of > said:
            said = 100 * done // of
            news.put((0, f"{name}: hidden states {said}%"))

    def tell(number: int, loss: float) -> None:
        news.put((1, f"{name} round {number}, loss {loss:.3f} (noised)"))
        go_on()

    go_on()
    return _train(task, tell, progress)


def _executor(workers: int) -> ProcessPoolExecutor:
    """SIGTERM still ends a worker: it is how the executor ends the others where one was killed."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, follow_main_process, (signal.SIGINT,))


@contextmanager
def _manager() -> Iterator[SyncManager]:
    manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
    with uninterrupted():
        manager.start(follow_main_process, (signal.SIGINT, signal.SIGTERM))
    try:
        yield manager
    finally:
        manager.shutdown()
