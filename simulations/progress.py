"""Live progress on the terminal: one panel for the federation, one bar for an arm trained locally.

Events come from another thread than the one that draws, so all state is behind one lock. Where stdout is not a
terminal (a log file, CI) every finished round is one plain line instead.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..privacy.accounting import rounded
from ..server.events import DONE, RoundEvent

REFRESH_PER_SECOND: Final = 4
ROUNDS_FOR_PACE: Final = 5
SECONDS_BETWEEN_LINES: Final = 30.0


class Clock(Protocol):
    """Seconds that never go back."""

    def __call__(self) -> float: ...


class RoundProgress:
    """Shows `RoundEvent`s as they arrive. Use it as a context manager in the main thread; call `show` from any thread.

    Args:
        console: where to draw.
        organizations: names of all members; those that are not among the survivors of an event show as gone.
        budget: epsilon that the charter allows each organization; None without privacy.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        console: Console,
        organizations: tuple[str, ...],
        budget: float | None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._console = console
        self._organizations = organizations
        self._budget = budget
        self._clock = clock
        self._lock = threading.Lock()
        self._event: RoundEvent | None = None
        self._loss: float | None = None
        self._epsilon: dict[str, float] = {}
        self._bytes = 0
        self._arrived = 0.0
        self._pace: deque[float] = deque(maxlen=ROUNDS_FOR_PACE)
        self._finished = 0
        self._live = (
            Live(get_renderable=self.render, console=console, refresh_per_second=REFRESH_PER_SECOND)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: RoundEvent) -> None:
        """Take an event in. Thread-safe; never blocks on the terminal when it is drawn live."""
        with self._lock:
            self._event = event
            self._arrived = self._clock()
            if event.loss is not None and math.isfinite(event.loss):
                self._loss = event.loss
            self._epsilon = {**self._epsilon, **event.epsilon}
            self._bytes = max(self._bytes, event.bytes_up)
            if event.phase == DONE:
                self._finished += 1
                if self._finished == 2:
                    # In the first round here members load the model and fill their caches.
                    self._pace.clear()
                self._pace.append(event.seconds)
            line = self._plain_line(event) if self._live is None and event.phase == DONE else None
        if line is not None:
            self._console.print(Text(line), soft_wrap=True)

    def seconds_left(self) -> float | None:
        """Seconds until the last round ends, at the pace of the last rounds; None before the first round ended.

        The first round, in which caches are filled, counts only while it is the only one.
        """
        with self._lock:
            return self._left()

    def _left(self) -> float | None:
        event = self._event
        if event is None or not self._pace:
            return None
        each = sum(self._pace) / len(self._pace)
        since = self._clock() - self._arrived
        if event.phase == DONE:
            return max(0.0, each * (event.rounds - event.round) - since)
        current = max(0.0, each - event.seconds - since)
        return current + each * (event.rounds - event.round)

    def _plain_line(self, event: RoundEvent) -> str:
        left = self._left()
        parts = [
            f"round {event.round}/{event.rounds}",
            f"loss {_loss_words(event.loss)}",
            _epsilon_words(self._epsilon, self._budget),
            f"up {bytes_words(self._bytes)}",
            f"survivors {len(event.survivors)}/{len(self._organizations)}",
            f"{event.seconds:.1f} s",
        ]
        return ", ".join(parts if left is None else [*parts, f"{duration_words(left)} left"])

    def render(self) -> RenderableType:
        """The panel as it stands now."""
        with self._lock:
            event, loss, left = self._event, self._loss, self._left()
            epsilon, sent = dict(self._epsilon), self._bytes
        if event is None:
            return Text("waiting for the organizations ...")
        finished = event.round if event.phase == DONE else event.round - 1
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"round {event.round}/{event.rounds}", style="bold"),
            ProgressBar(total=max(event.rounds, 1), completed=finished, width=28),
            Text(event.phase),
            Text("" if left is None else f"{duration_words(left)} left"),
        )
        facts = Table.grid(padding=(0, 2))
        known = event.clipped is not None and math.isfinite(event.clipped)
        clipped = f"{100 * event.clipped:.0f}%" if known and event.clipped is not None else "-"
        units = f"{event.units:.0f}" if event.loss is not None else "-"
        facts.add_row(
            Text(f"loss {_loss_words(loss)} (noised)" if self._budget is not None else f"loss {_loss_words(loss)}"),
            Text(f"units {units}"),
            Text(f"clipped {clipped}"),
            Text(f"up {bytes_words(sent)}"),
        )
        return Group(head, facts, self._members(event, epsilon))

    def _members(self, event: RoundEvent, epsilon: dict[str, float]) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for name in self._organizations:
            present = name in event.survivors
            spent = {name: epsilon[name]} if name in epsilon else {}
            table.add_row(
                Text("●" if present else "○", style="green" if present else "red"),
                Text(name),
                Text(_epsilon_words(spent, self._budget)),
                Text("" if present else "out of this round", style="red"),
            )
        return table


class Advance(Protocol):
    """Called by a local arm after some steps; `note` is shown beside the bar."""

    def __call__(self, steps: int = 1, note: str = "") -> None: ...


@contextmanager
def local_progress(console: Console, title: str, total: int, clock: Clock = time.monotonic) -> Iterator[Advance]:
    """A bar for work of `total` steps; off a terminal a plain line with a step, where the last is 30 seconds ago."""
    if not console.is_terminal:
        lines = _PlainSteps(console, title, total, clock)
        yield lines.advance
        lines.say("")
        return
    bar_of = BarColumn(bar_width=20)  # the note must fit behind it
    columns = (TextColumn("{task.description}", markup=False), bar_of, MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}", markup=False), console=console) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda steps=1, note="": bar.update(task, advance=steps, note=note)


class _PlainSteps:
    """What `local_progress` prints off a terminal. `total` in steps, `clock` in seconds."""

    def __init__(self, console: Console, title: str, total: int, clock: Clock) -> None:
        self._console, self._title, self._total, self._clock = console, title, total, clock
        self._started = self._said = clock()
        self._done = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        if self._done < self._total and self._clock() - self._said >= SECONDS_BETWEEN_LINES:
            self.say(note)

    def say(self, note: str) -> None:
        self._said = self._clock()
        line = f"{self._title}: {self._done}/{self._total} steps, {self._said - self._started:.1f} s"
        self._console.print(Text(f"{line}, {note}" if note else line), soft_wrap=True)


def bytes_words(count: float) -> str:
    """A number of bytes for people, in powers of 1000: `999 B`, `1.5 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 999.95:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration_words(seconds: float) -> str:
    """Seconds for people: `12 s`, `3 min 05 s`, `2 h 04 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _loss_words(loss: float | None) -> str:
    return "-" if loss is None or not math.isfinite(loss) else f"{loss:.3f}"


def _epsilon_words(epsilon: dict[str, float], budget: float | None) -> str:
    """The most that was spent; a dash while nothing is known yet."""
    if budget is None:
        return "no privacy"
    most = rounded(max(epsilon.values())) if epsilon else "-"
    return f"epsilon {most} of {budget:g}"
