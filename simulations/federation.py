"""The federated arm: the deployed server and client apps on Ray's workers, one virtual node an organization.

Workers are real processes, and a node's state between two messages is what its home holds, so where one dies another
answers for its nodes. Nothing of the apps knows that it is simulated: only the grid between them (`workers`) and the
map from a partition to a home are ours.
"""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from ..charter import signing
from ..charter.charter import Charter
from ..client import app as client_app
from ..conf.schema import Settings
from ..secagg.identity import Identity
from ..server import app as server_app
from ..server.events import RoundEvent
from ..server.exchange import Interrupted, Reply
from .workspace import Workspace


def federate(
    settings: Settings,
    space: Workspace,
    charter: Charter,
    homes: tuple[Path, ...],
    watch: Callable[[RoundEvent], None],
    stop: threading.Event,
    observe: Callable[[str, Reply], None] = lambda kind, reply: None,
) -> None:
    """Run every round of the charter that is not committed yet.

    Args:
        charter: signed. homes: of the members, any order.
        watch: gets round events, on this thread.
        stop: ends the run after the phase in progress.
        observe: sees every reply that the server accepted.

    Raises:
        Interrupted: `stop` was set. UserError: too few members agreed or answered.
    """
    from .workers import workers

    key: Identity = signing.load_key(space.server / "coordinator.key")
    paths = tuple(str(home) for home in homes)

    def home_of(context: Context) -> Path:
        return Path(paths[int(context.node_config["partition-id"])])

    _quiet(space.log)
    server = server_app.build(charter, key, space.rounds, watch, stop, observe)
    count, cpus = settings.simulation.workers, settings.simulation.threads_per_worker
    with workers(client_app.build(home_of), len(homes), count, cpus, ray_settings(settings)) as grid:
        server(grid, Context(0, 0, {}, RecordDict(), {}))
    if stop.is_set():
        raise Interrupted


def ray_settings(settings: Settings) -> dict[str, Any]:
    """What Ray is started with, beside its CPUs."""
    return {
        "object_store_memory": settings.simulation.object_store_megabytes * 2**20,
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "ERROR",
        "_temp_dir": None,
    }


def _quiet(log: Path) -> None:
    """Flower's and our own log lines go to the run's file: the terminal shows progress."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    for name in ("flwr", "cotune"):
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.propagate = False
