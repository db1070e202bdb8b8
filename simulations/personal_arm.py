"""The arm "personal": every organization goes on from the federation's adapter at home, as a node would.

The nodes' own code does it, and charges their ledgers for steps; here is only who runs it, and where the adapters go.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..client.home import NodeHome
from ..client.personal import Individual, NothingSentError
from ..client.workbench import Progress, Workbench
from ..privacy.accounts import OverBudget
from ..training.base import BaseModel
from .local_arm import bench_of, keep

log = logging.getLogger("cotune.simulations")


@dataclass(frozen=True)
class PersonalTask:
    """What a worker process needs; paths only.

    Attributes:
        home: of the organization. out: folder for its adapter. ended: whether the run ended before its last round.
    """

    home: Path
    out: Path
    ended: bool

    @property
    def kept(self) -> list[tuple[int, Path]]:
        """How many steps were taken, if any, and where the adapter is; empty before the arm has run."""
        return [(int(file.stem), file) for file in self.out.glob("*.npy")]


class _Arm(Individual):
    """A node whose model and records may be at hand already."""

    def __init__(self, home: NodeHome, progress: Progress, base: BaseModel | None) -> None:
        super().__init__(home)
        self._bench = partial(bench_of, home.path, progress, base)

    def _workbench(self) -> Workbench:
        return self._bench()


def personalize(
    task: PersonalTask, tell: Callable[[int, float], None], progress: Progress, base: BaseModel | None = None
) -> list[int]:
    """Take the charter's personal steps in one home, or go further without any; arguments as `local_arm.train`.

    Returns:
        How many steps the adapter in `task.out` has; nothing where the budget had no room for one, or nothing was
        contributed.
    """
    home = NodeHome(task.home)
    with home.locked():
        try:
            node = _Arm(home, progress, base)
            steps = node.charter.personal_steps
            done = node.personalize(task.ended, tell) if steps else node.further(ended=task.ended)
        except (OverBudget, NothingSentError) as over:
            log.warning("%s: no adapter of its own: %s", task.home.name, over)
            return []
    task.out.mkdir(parents=True, exist_ok=True)
    keep(done.adapter, task.out / f"{done.steps:04d}.npy")
    return [done.steps]
