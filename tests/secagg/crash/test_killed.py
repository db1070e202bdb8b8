"""Kill -9 at every event of every phase: whatever the server does next, nothing is said twice and rounds go on."""

import re
from contextlib import suppress
from typing import Any

import pytest
from cotune.errors import UserError
from cotune.secagg.refused import Refused

PHASES = range(5)
SURVIVE = 3


def another_round(machine: Any, table: Any, four: Any, head: bytes, **changes: Any) -> Any:
    """The organization must be well again: it takes part to the end."""
    plan = {"round": 2, "prev_head": head, **changes}
    server = table(four, four.plan(**plan))
    machine.expect(prev_head=head)
    server.finish(machine, machine.call(0, server.message()))
    assert 0 in server.result.survivors
    assert not list(machine.home.glob(".*")), "a kill left a file with secrets behind"
    return server


@pytest.mark.parametrize("phase", PHASES)
def test_the_server_repeats_its_message(lives: Any, table: Any, four: Any, phase: int) -> None:
    for here, server, reply in lives(phase):
        again = here.call(phase, server.message())
        server.finish(here, again if reply is None else reply)
        another_round(here, table, four, server.result.head)


@pytest.mark.parametrize("phase", PHASES)
def test_the_server_tries_the_round_again(lives: Any, table: Any, four: Any, phase: int) -> None:
    for here, server, _ in lives(phase):
        burned = re.search(" survive .*\\n", (here.home / "journal").read_text()) is not None
        retry = table(four, four.plan(round=1, attempt=1))
        reply = here.call(0, retry.message())
        assert isinstance(reply, Refused) == burned
        late = here.call(phase, server.message()) if phase else None
        assert burned or phase < SURVIVE or isinstance(late, Exception)
        retry.finish(here, reply)
        assert (0 in retry.result.survivors) != burned
        here.replay()


@pytest.mark.parametrize("phase", PHASES)
def test_the_server_shows_another_view_after_the_restart(lives: Any, table: Any, four: Any, phase: int) -> None:
    for here, server, reply in lives(phase):
        other = server.other()
        for view, answer in ((other, None), (server, reply)):
            got = here.call(phase, view.message())
            with suppress(Refused):  # without organization 3 and this one too few are left
                view.finish(here, got if answer is None else answer)
        here.replay()


@pytest.mark.parametrize("phase", PHASES)
def test_the_power_fails_after_the_restart(lives: Any, table: Any, four: Any, phase: int) -> None:
    """A statement that could be read after the kill, and was signed, must not be gone after a power cut."""
    for here, server, reply in lives(phase):
        other = server.other()
        again = here.call(phase, server.message())
        here.power_cut()
        here.call(phase, other.message())
        here.call(phase, server.message())
        here.replay()
        here.power_cut()
        server.finish(here, again if reply is None else reply)


@pytest.mark.parametrize("phase", PHASES)
def test_the_disk_is_full(lives: Any, table: Any, four: Any, phase: int) -> None:
    refused = 0
    for here, server, reply in lives(phase, full=True):
        if isinstance(reply, Exception):
            refused += 1
            assert isinstance(reply, UserError)
            assert len(str(reply).splitlines()) == 1
            assert "No space left" in str(reply)
        again = here.call(phase, server.message())
        server.finish(here, again if isinstance(reply, Exception) else reply)
        here.replay()
    assert refused > 0
