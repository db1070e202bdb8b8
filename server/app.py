"""The Flower ServerApp of a coordinator: rounds of a charter, one after the other, each committed before the next.

It holds the charter, the coordinator's key, and sums. Rounds that were committed stay committed; a killed server
continues with the round after them. A round whose survivors were asked to sign and that was not committed is burned:
its privacy is spent, nobody signs for it again, and the model stays as it was.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ..charter.charter import Charter
from ..secagg.identity import Identity
from .exchange import Exchange, Reply
from .run import Run, Watch
from .run_directory import RunDirectory


def build(
    charter: Charter,
    key: Identity,
    folder: Path,
    watch: Watch,
    stop: threading.Event,
    observe: Callable[[str, Reply], None] = lambda kind, reply: None,
) -> ServerApp:
    """The app.

    Args:
        charter: verified. key: the coordinator's. folder: the run directory.
        watch: gets a `RoundEvent` at each phase, on the app's thread.
        stop: ends the run at the next poll; `exchange.Interrupted` is raised.
        observe: sees every reply that was accepted (tests).
    """
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        Run(charter, key, RunDirectory(folder, charter.digest()), Exchange(grid, stop, observe), watch).finish()

    return app
