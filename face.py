"""What `import cotune` offers as functions: each a few lines over the rooms, loaded when it is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from .conf.schema import Settings
    from .privacy.budgeting import Option
    from .release.loading import LoadedRelease
    from .server.events import RoundEvent
    from .simulations.reporting.report import Report
    from .verify.transcripts import CheckedRun


def compose(*overrides: str) -> Settings:
    """The settings of a run, as `cotune simulate` composes them.

    Args:
        overrides: as on the command line.

    Raises:
        UserError: an unknown key or choice, a value out of range, or a combination that cannot work.

    Example:
        >>> compose("privacy.epsilon=3", "rounds=5").privacy.epsilon
        3.0
        >>> compose("privacy.epsilom=3")
        Traceback (most recent call last):
        cotune.errors.UserError: unknown key privacy.epsilom: did you mean privacy.epsilon?
    """
    from .conf.compose import compose as composed

    return composed(overrides)


def simulate(
    settings: Settings | Sequence[str], progress: bool = True, watch: Callable[[RoundEvent], None] | None = None
) -> Report:
    """Run a consortium on this machine, or go on with one that was interrupted.

    Args:
        settings: from `compose`, or what `compose` takes.
        progress: whether to print progress and the table of results.
        watch: gets a `RoundEvent` at each phase of each federated round, with noised loss and epsilon by member.

    Returns:
        The report; everything else lies in `settings.run_dir`.

    Raises:
        UserError: whatever a person can mend. KeyboardInterrupt: stopped; the same call goes on.
    """
    from rich.console import Console

    from .simulations.simulate import run

    chosen = compose(*settings) if isinstance(settings, Sequence) else settings
    return run(chosen, Console(markup=False, emoji=False, quiet=not progress), watch)


def plan_privacy(
    epsilon: float,
    units: int,
    rounds: int,
    delta: float | None = None,
    sample_rate: float = 1.0,
    steps_per_round: int = 1,
) -> Option:
    """The noise that a whole run needs to keep its budget.

    Args:
        epsilon: the budget of every organization.
        delta: the same; None: 1 / (10 units).
        units: of the largest organization. rounds, steps_per_round: noised sums that each gives away in all.
        sample_rate: share of the units in a step, in (0, 1].

    Returns:
        `noise_multiplier`, and the epsilon that is reached by PRV and by RDP accounting.

    Raises:
        UserError: a number is out of range.

    Example:
        >>> round(plan_privacy(epsilon=8.0, units=1000, rounds=20).noise_multiplier, 2)
        2.43
    """
    from .privacy.budgeting import Task, for_rounds
    from .privacy.terms import largest_delta

    for name, value in (("epsilon", epsilon), ("units", units), ("rounds", rounds), ("steps", steps_per_round)):
        if not value > 0:
            raise UserError(f"{name} is {value:g}", "give a positive number")
    if not 0 < sample_rate <= 1:
        raise UserError(f"sample_rate is {sample_rate:g}", "give a number in (0, 1]")
    bound = largest_delta(units) if delta is None else delta
    return for_rounds(Task(epsilon, bound, units, sample_rate, rounds, steps_per_round, 0), rounds)


def load_release(
    folder: Path | str, device: str = "auto", dtype: str = "auto", base: Path | str | None = None
) -> LoadedRelease:
    """The base model with a release's adapter: a PEFT model, its tokenizer, and what the release says.

    Args:
        folder: the release of a run. device, dtype: as `model.device` and `model.dtype`.
        base: a folder with the base model; None: from where the release says.

    Raises:
        UserError: not a release, a damaged one, or another base model or tokenizer than the pinned ones.
    """
    from .conf.compose import compose as composed
    from .release.loading import open_release
    from .training.source import ModelSource

    source = None if base is None else ModelSource(name=str(base))
    return open_release(Path(folder), composed(()).cache, device, dtype, source=source)


def verify_transcript(file: Path | str, charter: Path | str) -> CheckedRun:
    """Check a run's transcript offline: signatures, quorums, revealed secrets, the chain of heads.

    Args:
        file: a transcript, or a coordinator's run directory. charter: the charter that it should be a run of.

    Returns:
        Every round, and `finding`: the first fault, or None where all of it holds.

    Raises:
        UserError: a file cannot be read.
    """
    from .charter.charter import load
    from .verify.transcripts import check

    return check(Path(file), load(Path(charter)))
