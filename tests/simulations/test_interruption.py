"""Ctrl-C once sets the event, twice ends the process; afterwards the old handlers stand again."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from cotune.simulations.interruption import stoppable
from rich.console import Console


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_sets_the_event(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    console = Console(record=True, quiet=True)
    with stoppable(console) as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
    assert signal.getsignal(number) is before


def test_the_handlers_return_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="mine"), stoppable(Console(quiet=True)):
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is before


def test_off_the_main_thread_nothing_is_caught() -> None:
    seen = []

    def work() -> None:
        with stoppable(Console(quiet=True)) as stop:
            seen.append(stop.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert seen == [False]


def test_the_second_ends_the_process() -> None:
    code = (
        "import os, signal, time\nfrom rich.console import Console\n"
        "from cotune.simulations.interruption import stoppable\n"
        "with stoppable(Console()) as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    assert stop.wait(5)\n    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(5)\n    print('never')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130
    assert done.stdout.endswith("still here\n")
    assert done.stderr == ""
