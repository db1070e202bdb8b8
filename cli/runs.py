"""`cotune demo`, `cotune simulate`, `cotune study`: compose the configuration, then hand it to the simulations.

The simulations are imported only after the configuration stands: they take seconds to import, a typo none.
"""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings that differ from the defaults, e.g. privacy.epsilon=3."),
]


STRATEGIES = "strategies"
Folder = Annotated[Path, typer.Option("--folder", help="Where results are kept; a second call goes on there.")]


def demo(overrides: Overrides = None) -> None:
    """A consortium of hospitals on this machine: real data, real model, privacy and secure aggregation on."""
    from ..conf.compose import compose

    given = overrides or []
    chosen = any(word.startswith("experiment=") for word in given)
    settings = compose(given if chosen else ["experiment=hospitals", *given])

    from ..simulations import simulate as simulation

    simulation.run(settings)


def simulate(
    overrides: Overrides = None,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", help="Run every combination of key=1,2,3.")] = False,
) -> None:
    """Run one consortium on this machine, or with -m one for each combination of values."""
    from ..conf.compose import compose, sweep

    given = overrides or []
    runs = sweep(given) if multirun else [compose(given)]

    from ..simulations import simulate as simulation

    for settings in runs:
        simulation.run(settings)


def tune(overrides: Overrides = None, folder: Folder = Path("runs/tune")) -> None:
    """Find settings on public or simulated data: every combination of key=1,2,3, under the planned run's account.

    Give the corpus that stands in for private records, and what is to be tried, e.g. `cotune tune data=icd10
    privacy.epsilon=3 strategy.learning_rate=50,150 rounds=10,20`.
    """
    from ..conf.compose import sweep

    planned = sweep(overrides or [])

    from ..simulations import tuning

    tuning.run(planned, folder)


def study(
    overrides: Overrides = None,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where results are kept.")] = None,
) -> None:
    """Both corpora, three seeds, every arm; the table with spreads at the end.

    `cotune study strategies` compares published rules of federated LoRA in place of it, each charged for all that it
    releases, e.g. `cotune study strategies method=core,ffa experiment=hospitals privacy.epsilon=8 seed=1`.
    """
    given = overrides or []
    if given[:1] == [STRATEGIES]:
        _strategies(given[1:], folder or Path("runs/strategies"))
        return
    from ..conf.compose import study_sweep

    runs = study_sweep(given)

    from ..simulations import study as studies

    studies.run(runs, folder or Path("runs/study"))


def _strategies(overrides: list[str], folder: Path) -> None:
    from ..conf.methods import comparison

    planned = comparison(overrides)

    from ..simulations import method_study

    method_study.run(planned, folder)
