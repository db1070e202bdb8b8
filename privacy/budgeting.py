"""What a budget buys: rounds for a noise, noise for rounds, for fresh data or after what a ledger holds."""

from dataclasses import dataclass, replace
from typing import Literal

from ..errors import UserError
from .accounting import accounted, calibrate, rounded, steps_affordable
from .accounts import Account
from .history import Segment, segment
from .skellam import Grid


@dataclass(frozen=True)
class Task:
    """What is planned for one organization.

    Attributes:
        epsilon, delta: the budget for each unit.
        units: how many the data hold. sample_rate: q.
        rounds, steps_per_round: as configured.
        personal_steps: that are planned at home, after the rounds.
        history: what was charged before.
        grid: of Skellam noise; None for Gaussian noise.
    """

    epsilon: float
    delta: float
    units: int
    sample_rate: float
    rounds: int
    steps_per_round: int
    personal_steps: int = 0
    history: tuple[Segment, ...] = ()
    grid: Grid | None = None


@dataclass(frozen=True)
class Option:
    """One way to spend a budget.

    Attributes:
        epsilon, delta: the budget. units, sample_rate: of the data. expected_batch: q times units.
        rounds, steps, noise_multiplier: what is bought; personal steps are among the steps.
        epsilon_before: spent before; epsilon_reached: spent at the end, by `method` (as in `accounting.Accounted`);
            epsilon_rdp: the bound that holds by proof.
        noise_per_unit: noise multiplier over the expected batch: how loud the noise is on a step's mean gradient.
    """

    epsilon: float
    delta: float
    units: int
    sample_rate: float
    expected_batch: float
    rounds: int
    steps: int
    noise_multiplier: float
    epsilon_before: float
    epsilon_reached: float
    epsilon_rdp: float
    method: Literal["prv", "rdp", "zcdp", "none"]
    noise_per_unit: float


def after(task: Task, account: Account) -> Task:
    """The task after what an account composes: the smaller budget and the smaller delta hold, as in the ledger.

    Raises:
        UserError: nothing is left.
    """
    history = tuple(row.segment for row in account.composed)
    budget, delta = min(task.epsilon, account.budget_epsilon), min(task.delta, account.delta)
    spent = accounted(history, delta).epsilon
    if spent >= budget:
        raise UserError(
            f"nothing is left: epsilon {rounded(spent)} of {budget:g} is spent at delta {delta:g}",
            "plan with new data, or agree on a larger epsilon",
        )
    return replace(task, epsilon=budget, delta=delta, history=history)


def for_rounds(task: Task, rounds: int) -> Option:
    """The smallest noise for a number of rounds.

    Raises:
        UserError: no noise is enough.
    """
    steps = rounds * task.steps_per_round + task.personal_steps
    sigma = calibrate(task.epsilon, task.delta, task.sample_rate, steps, task.history, task.grid)
    return _option(task, rounds, sigma)


def at_noise(task: Task, sigma: float) -> Option:
    """The most rounds at a noise; 0 where not even one fits."""
    steps = steps_affordable(task.epsilon, task.delta, sigma, task.sample_rate, task.history, task.grid)
    return _option(task, max(steps - task.personal_steps, 0) // task.steps_per_round, sigma)


def _option(task: Task, rounds: int, sigma: float) -> Option:
    steps = rounds * task.steps_per_round + (task.personal_steps if rounds else 0)
    batch = task.sample_rate * task.units
    reached = accounted([*task.history, segment(sigma, task.sample_rate, steps, task.grid)], task.delta)
    return Option(
        epsilon=task.epsilon,
        delta=task.delta,
        units=task.units,
        sample_rate=task.sample_rate,
        expected_batch=batch,
        rounds=rounds,
        steps=steps,
        noise_multiplier=sigma,
        epsilon_before=accounted(task.history, task.delta).epsilon,
        epsilon_reached=reached.epsilon,
        epsilon_rdp=reached.rdp,
        method=reached.method,
        noise_per_unit=sigma / batch,
    )
