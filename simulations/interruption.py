"""Ctrl-C: once asks the run to stop where it can be continued, twice ends the process at once.

Worker processes and the one that carries their news leave both to the main process. They begin here, in a module that
imports nothing heavy.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

INTERRUPTED = 130


class StoppedError(Exception):
    """A worker saw the stop flag between two rounds."""


@contextmanager
def stoppable(console: Console) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets, while the context is open.

    Edge cases: outside the main thread no signal can be caught; the event then stays unset.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)
        stop.set()
        console.print("stopping where the run can be continued; Ctrl-C again ends it at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow_main_process(*ignored: signal.Signals) -> None:
    """Ctrl-C reaches every process of the terminal; only the main one decides what it means, and takes us with it."""
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A second Ctrl-C, or a kill, ends the main process without a word; nobody would ever end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Processes that start in here never see Ctrl-C, not even while they still import; ours arrives when it ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
