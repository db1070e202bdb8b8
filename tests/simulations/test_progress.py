"""Live progress: what it says, from other threads, on a terminal and off it."""

import io
import threading
from dataclasses import replace

import pytest
from cotune.server.events import DONE, RoundEvent
from cotune.simulations.progress import RoundProgress, bytes_words, duration_words, local_progress
from rich.console import Console

NAMES = ("north", "south", "west")


def event(**changes: object) -> RoundEvent:
    first = RoundEvent(
        round=3,
        rounds=10,
        phase="mask",
        loss=None,
        clipped=None,
        units=0.0,
        epsilon={"north": 2.5, "south": 2.25},
        bytes_up=1_500_000,
        survivors=("north", "south"),
        seconds=4.0,
    )
    return replace(first, **changes)  # type: ignore[arg-type]


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def text_of(where: Console) -> str:
    assert isinstance(where.file, io.StringIO)
    return where.file.getvalue()


def rendered(progress: RoundProgress) -> str:
    where = console(terminal=False)
    where.print(progress.render())
    return text_of(where)


def test_one_plain_line_a_round_off_a_terminal() -> None:
    where = console(terminal=False)
    with RoundProgress(where, NAMES, budget=8.0) as progress:
        for phase in ("plan", "mask", DONE):
            progress.show(event(phase=phase, loss=2.345 if phase == DONE else None))
    (line,) = text_of(where).splitlines()
    for words in (
        "round 3/10",
        "loss 2.345",
        "epsilon 2.500 of 8",
        "up 1.5 MB",
        "survivors 2/3",
        "4.0 s",
        "28 s left",
    ):
        assert words in line


def test_the_panel_shows_epsilon_by_organization_and_who_is_gone() -> None:
    progress = RoundProgress(console(terminal=True), NAMES, budget=8.0)
    progress.show(event(loss=1.5, clipped=0.25, units=99.7))
    text = rendered(progress)
    lines = {name: next(line for line in text.splitlines() if name in line) for name in NAMES}
    assert "epsilon 2.500 of 8" in lines["north"]
    assert "epsilon 2.250 of 8" in lines["south"]
    assert "out of this round" in lines["west"]
    assert "out of this round" not in lines["north"]
    for words in ("round 3/10", "mask", "loss 1.500 (noised)", "units 100", "clipped 25%", "up 1.5 MB"):
        assert words in text


def test_the_last_known_loss_stays_until_the_next_one() -> None:
    progress = RoundProgress(console(terminal=True), NAMES, budget=8.0)
    progress.show(event(phase=DONE, loss=1.5))
    progress.show(event(round=4, phase="train"))
    assert "loss 1.500" in rendered(progress)
    progress.show(event(round=4, phase=DONE, loss=float("nan"), clipped=float("nan")))
    assert "nan" not in rendered(progress)


def test_what_an_event_leaves_out_stays_as_it_was_known() -> None:
    progress = RoundProgress(console(terminal=True), NAMES, budget=8.0)
    progress.show(event(phase="plan", epsilon={}, bytes_up=0))
    assert "epsilon - of 8" in rendered(progress)
    progress.show(event(phase=DONE))
    progress.show(event(round=4, phase="plan", epsilon={}, bytes_up=0))
    text = rendered(progress)
    assert "epsilon 2.500 of 8" in text
    assert "up 1.5 MB" in text
    assert "no privacy" not in text


def test_without_privacy_nothing_is_called_epsilon() -> None:
    progress = RoundProgress(console(terminal=True), NAMES, budget=None)
    progress.show(event(epsilon={}, loss=1.0))
    text = rendered(progress)
    assert "epsilon" not in text
    assert "noised" not in text


def test_time_left_is_the_pace_of_the_last_rounds_without_the_first() -> None:
    now = [0.0]
    progress = RoundProgress(console(terminal=True), NAMES, None, clock=lambda: now[0])
    assert progress.seconds_left() is None
    progress.show(event(round=1, phase=DONE, seconds=60.0))
    assert progress.seconds_left() == pytest.approx(9 * 60)
    progress.show(event(round=2, phase=DONE, seconds=20.0))
    assert progress.seconds_left() == pytest.approx(8 * 20)
    progress.show(event(round=3, phase=DONE, seconds=10.0))
    assert progress.seconds_left() == pytest.approx(7 * 15)
    progress.show(event(round=4, phase="mask", seconds=5.0))
    now[0] = 2.0
    assert progress.seconds_left() == pytest.approx((15 - 5 - 2) + 6 * 15)
    progress.show(event(round=10, phase=DONE, seconds=15.0))
    assert progress.seconds_left() == 0.0


def test_events_of_many_threads_are_all_taken() -> None:
    where = console(terminal=False)
    with RoundProgress(where, NAMES, budget=8.0) as progress:
        threads = [
            threading.Thread(
                target=lambda base=base: [progress.show(event(round=base + i, phase=DONE)) for i in range(25)]
            )
            for base in (0, 100, 200, 300)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = text_of(where).splitlines()
    assert len(lines) == 100
    assert all(line.startswith("round ") for line in lines)


def test_live_display_draws_and_ends_cleanly_on_an_error() -> None:
    where = console(terminal=True)

    def interrupted() -> None:
        with RoundProgress(where, NAMES, budget=8.0) as progress:
            progress.show(event())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "round 3/10" in text_of(where)
    assert text_of(where).rstrip().endswith("\x1b[?25h")  # the cursor is visible again


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_for_local_work(terminal: bool) -> None:
    where = console(terminal=terminal)
    with local_progress(where, "north [alone]", 4) as advance:
        advance()
        advance(3, note="loss 1.2")
    assert "north [alone]" in text_of(where)
    assert "4/4" in text_of(where)


def test_local_progress_off_a_terminal_says_something_now_and_then() -> None:
    now = 0.0
    where = console(terminal=False)
    with local_progress(where, "north", 4, lambda: now) as advance:
        for now in (10.0, 29.0, 31.0, 40.0):
            advance(note=f"at {now:.0f}")
    assert text_of(where).splitlines() == ["north: 3/4 steps, 31.0 s, at 31", "north: 4/4 steps, 40.0 s"]


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (5e10, "50.0 GB")]
)
def test_bytes_words(count: float, words: str) -> None:
    assert bytes_words(count) == words


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7440, "2 h 04 min")])
def test_duration_words(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
