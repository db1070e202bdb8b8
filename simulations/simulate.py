"""One run, from settings to report: all arms on one test set.

Each arm that has finished is kept in the run's folder, and the federation commits every round, so an interrupted run
continues where it stood.
"""

import errno
from collections.abc import Callable

from rich.console import Console

from ..conf.schema import Settings
from ..errors import UserError
from ..server.events import RoundEvent
from ..server.exchange import Interrupted
from .arms import Simulation
from .interruption import stoppable
from .reporting import report_file
from .reporting.report import Report
from .reporting.tables import result_table
from .workspace import Workspace, alone_in, open_workspace


def run(
    settings: Settings, console: Console | None = None, watch: Callable[[RoundEvent], None] | None = None
) -> Report:
    """Run what is not done yet, write the report, print it.

    Args:
        console: where progress and results are shown. watch: gets the events of federated rounds as well.

    Raises:
        UserError: whatever a person can mend. KeyboardInterrupt: the person stopped the run; it can be continued.
    """
    with alone_in(settings.run_dir):
        # A unit, a model or a folder may be named like markup.
        shown = console or Console(markup=False, emoji=False)
        return _run(settings, shown, watch or (lambda event: None))


def _run(settings: Settings, console: Console, watch: Callable[[RoundEvent], None]) -> Report:
    space = open_workspace(settings)
    done = _finished(settings, space)
    if done is not None:
        console.print(f"{settings.run_dir} is finished; simulation.existing=fresh runs it again")
        console.print(result_table(done))
        return done
    with stoppable(console) as stop:
        try:
            done = Simulation(settings, space, console, stop, watch).finish()
            if stop.is_set():  # Ctrl-C came when all was done: a study must not begin its next run
                raise KeyboardInterrupt
            return done
        except Interrupted:
            console.print(f"stopped; simulation.existing=continue goes on in {settings.run_dir}")
            raise KeyboardInterrupt from None
        except OSError as problem:
            if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            place = problem.filename or settings.run_dir
            raise UserError(f"{place}: the disk is full", "free some space, then run the same again") from problem


def _finished(settings: Settings, space: Workspace) -> Report | None:
    """The report of a run that has nothing left to do; None where there is none, or an arm was added since."""
    if not space.report.exists():
        return None
    done = report_file.read(space.report)
    return done if set(settings.simulation.arms) <= set(done.config["simulation"]["arms"]) else None
