"""Ctrl-C: once asks the run to stop where it can be continued, twice ends the process at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

INTERRUPTED = 130


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
