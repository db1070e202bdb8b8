"""`cotune privacy`: plan a run's noise before it starts, and show what an organization's ledger says was spent."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from ..spelling import plain_id, printable

if TYPE_CHECKING:
    from ..conf.schema import Settings
    from ..privacy.accounts import Account
    from ..privacy.budgeting import Option, Task
    from ..privacy.charges import Charge
    from ..privacy.ledger import Ledger

app = typer.Typer(help="Noise for a budget, and the ledger of what was spent.", no_args_is_help=True)

# Without --sigma and -m: the configured number of rounds, and what half as many or twice as many would cost.
_FACTORS = (0.25, 0.5, 1, 2, 4)
_MOST_PARAMETERS = 10**12
Json = Annotated[bool, typer.Option("--json", help="For programs: one JSON object, every number in full.")]


@app.command()
def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="e.g. privacy.epsilon=3 privacy.delta=1e-6 rounds=50 data.units_per_organization=2000",
        ),
    ] = None,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", help="One line for each of key=1,2,3.")] = False,
    sigma: Annotated[
        list[float] | None, typer.Option("--sigma", metavar="S", help="How many rounds fit at this noise; repeatable.")
    ] = None,
    batch: Annotated[
        float | None, typer.Option("--batch", metavar="N", help="Expected units in a step, for privacy.sample_rate.")
    ] = None,
    parameters: Annotated[
        int | None,
        typer.Option("--parameters", metavar="D", help="Trained parameters, for privacy.mechanism=skellam."),
    ] = None,
    home: Annotated[
        Path | None, typer.Option("--home", metavar="HOME", help="Plan what the ledger of this node has left.")
    ] = None,
    data_set: Annotated[
        str | None, typer.Option("--data-set", metavar="DIGEST", help="With --home: which account, by first digits.")
    ] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="With --home: which account, by its unit.")] = None,
    as_json: Json = False,
) -> None:
    """How many rounds at which noise keep the budget: epsilon, delta (default 1/(10 units)) and rate as configured."""
    from ..conf.compose import compose, sweep
    from ..privacy.budgeting import at_noise, for_rounds

    given = overrides or []
    tasks = [_task(settings, batch, parameters) for settings in (sweep(given) if multirun else [compose(given)])]
    if home is not None:
        tasks = [_continued(task, home, data_set or "", unit) for task in tasks]
    elif data_set is not None or unit is not None:
        raise UserError("--data-set and --unit choose an account of a ledger", "give its node's folder with --home")
    options: list[Option] = []
    for task in tasks:
        if sigma:
            options += [at_noise(task, _positive("--sigma", value)) for value in sigma]
        else:
            rounds = [task.rounds] if multirun else sorted({max(1, round(task.rounds * part)) for part in _FACTORS})
            options += [for_rounds(task, number) for number in rounds]
    if as_json:
        typer.echo(json.dumps({"options": [asdict(option) for option in options]}, indent=2))
        return
    for line in _option_lines(options):
        typer.echo(line)


def _task(settings: "Settings", batch: float | None, parameters: int | None) -> "Task":
    from ..privacy.budgeting import Task
    from ..privacy.terms import grid_of

    privacy, units = settings.privacy, settings.data.units_per_organization
    if privacy.epsilon is None:
        raise UserError("privacy.enabled=false has no budget to plan", "choose privacy=dp")
    if units is None:
        raise UserError("the number of units is not known before the files are read", "set data.units_per_organization")
    rate = privacy.sample_rate if batch is None else _positive("--batch", batch) / units
    if rate > 1:
        raise UserError(f"--batch {batch:g} is more than the {units} units", "give fewer")
    delta, steps = privacy.delta_for(units), settings.strategy.steps_per_round
    grid = None
    if privacy.mechanism == "skellam":
        if parameters is None or not 1 <= parameters <= _MOST_PARAMETERS:
            raise UserError(
                "what rounding to integers costs depends on how many parameters are trained",
                f"give their number, up to {_MOST_PARAMETERS}, with --parameters, or set privacy.mechanism=gaussian",
            )
        grid = grid_of(privacy.max_grad_norm, privacy.metrics_weight, parameters)
    rounds, personal = settings.rounds, settings.personal_steps
    return Task(privacy.epsilon, delta, units, rate, rounds, steps, personal, grid=grid)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name} is {value:g}", "give a positive number")
    return value


def _continued(task: "Task", home: Path, data_set: str, unit: str | None) -> "Task":
    """The task after everything that the ledger holds for one account, within the budgets of its charters too."""
    from ..privacy.budgeting import after

    accounts = _open(home).statement()
    wanted = None if unit is None else plain_id(unit)
    chosen = [one for one in accounts if one.data_set.startswith(data_set) and wanted in (None, one.unit)]
    if len(chosen) != 1:
        held = ", ".join(f"{one.data_set[:12]} ({printable(one.unit)})" for one in accounts) or "nothing"
        raise UserError(f"{home}: the ledger holds {held}", "choose one with --data-set and --unit")
    return after(task, chosen[0])


def _option_lines(options: "list[Option]") -> list[str]:
    from ..privacy.accounting import rounded

    lines = ["epsilon  delta      units   rate    batch    rounds   steps    noise     by PRV    by RDP    noise/unit"]
    for one in options:
        prv = rounded(one.epsilon_reached) if one.method in ("prv", "none") else "-"
        lines.append(
            f"{one.epsilon:<7g}  {one.delta:<9.3g}  {one.units:<6d}  {one.sample_rate:<6.4g}  "
            f"{one.expected_batch:<7.4g}  {one.rounds:<7d}  {one.steps:<7d}  {one.noise_multiplier:<8.3f}  "
            f"{prv:<8}  {rounded(one.epsilon_rdp):<8}  {one.noise_per_unit:.3g}"
        )
    spent = max(one.epsilon_before for one in options)
    if spent:
        lines.append(f"epsilon {rounded(spent)} of it is spent already; by PRV and by RDP hold it too")
    lines.append("noise/unit: standard deviation of the noise over the expected units of a step, in clipping norms")
    return lines


@app.command()
def show(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="An organization's folder, or a ledger file.")],
    as_json: Json = False,
) -> None:
    """Check an organization's ledger and print what each data set and unit has spent, charge by charge."""
    ledger = _open(home)
    head, accounts = ledger.verify(), ledger.statement()
    if as_json:
        nested = [_nested(account) for account in accounts]
        typer.echo(json.dumps({"ledger": str(ledger.path), "head": head, "accounts": nested}, indent=2))
        return
    for line in _account_lines(accounts):
        typer.echo(line)
    for account in accounts:
        typer.echo(f"\ndata set {account.data_set[:12]}, {printable(account.unit)}: {_room(account)}")
        counted = {charge.data_set for charge in account.composed}
        shared = [f"{kin.shared} with {kin.data_set[:12]}" for kin in account.kin if kin.data_set in counted]
        if shared:
            typer.echo(f"shares records or unit ids, so that their charges count here too: {', '.join(shared)}")
        for line in _charge_lines(account):
            typer.echo(line)
    typer.echo(f"\nchain intact, head {head}")


def _open(home: Path) -> "Ledger":
    from ..privacy.ledger import Ledger

    path = home / "ledger.sqlite" if home.is_dir() else home
    if not path.is_file():
        if (home / "policy.yaml").is_file():
            raise UserError(f"{path}: no ledger there yet", "take part in a round first: nothing was spent from here")
        homes = sorted(file.parent for file in home.glob("nodes/*/ledger.sqlite"))
        mend = f"name an organization's folder, such as {homes[0]}" if homes else "name an organization's folder"
        raise UserError(f"{path}: no ledger there", mend)
    return Ledger(path)


def _own(account: "Account") -> "list[Charge]":
    """Without those of kin data sets and of other adversaries: each charge is printed once."""
    return [charge for charge in account.composed if charge.account == (account.data_set, account.unit)]


def _nested(account: "Account") -> dict[str, object]:
    own = [asdict(charge) for charge in _own(account)]
    return asdict(account) | {"composed": account.charges, "charges": own}


def _account_lines(accounts: "list[Account]") -> list[str]:
    from ..privacy.accounting import rounded
    from ..privacy.adversaries import limited

    lines = ["data set      unit                        delta      budget  spent   left    by    steps  charges"]
    for one in accounts:
        lines.append(
            f"{one.data_set[:12]:<12}  {printable(one.unit)[:26]:<26}  {one.delta:<9.3g}  "
            f"{f'{one.budget_epsilon:g}' if limited(one) else 'none':<6}  {rounded(one.spent_epsilon):<6}  "
            f"{rounded(one.left_epsilon, up=False) if limited(one) else '-':<6}  {one.method:<4}  "
            f"{one.steps:<5d}  {one.charges}"
        )
    return lines + _several_units(accounts)


def _several_units(accounts: "list[Account]") -> list[str]:
    """A line for each data set that was charged under several units, by itself or by what shares something with it."""
    from ..privacy.accounts import plain_unit

    units: dict[str, set[str]] = {}
    for one in accounts:
        units.setdefault(one.data_set, set()).add(plain_unit(one.unit))
    lines = []
    for name, kin in sorted({one.data_set: one.kin for one in accounts}.items()):
        others = [other.data_set[:12] for other in kin if units[other.data_set] != units[name]]
        if others:
            who = f"{name[:12]} and {', '.join(others)}, which share records or unit ids with it, are"
        else:
            who = f"{name[:12]} is"
        if others or len(units[name]) > 1:
            lines.append(f"data set {who} charged under several units: what was released adds up")
    return lines


def _room(account: "Account") -> str:
    """What fits beside the charges on the terms of the last: epsilon left is not what further steps cost."""
    from ..privacy.accounting import steps_affordable
    from ..privacy.adversaries import limited

    if not limited(account):
        return "no budget was set against everybody; the budget is in the account of the adversary that was agreed on"
    history = [row.segment for row in account.composed]
    last = _own(account)[-1]
    more = steps_affordable(
        account.budget_epsilon, account.delta, last.noise_multiplier, last.sample_rate, history, last.terms.grid
    )
    return f"{more} more steps fit at noise {last.noise_multiplier:g} and rate {last.sample_rate:g}"


def _charge_lines(account: "Account") -> list[str]:
    from ..privacy.accounting import rounded

    lines = ["date                       charter       run           round  noise     rate    steps  epsilon after"]
    for row in _own(account):
        # Rounds are counted from 1 for people; a second attempt has its own charge.
        round_name = f"{row.round + 1}" + (f".{row.attempt + 1}" if row.attempt else "")
        lines.append(
            f"{printable(row.reserved_at):<25}  {row.charter[:12]:<12}  {printable(row.run)[:12]:<12}  "
            f"{round_name:<5}  {row.noise_multiplier:<8.3f}  {row.sample_rate:<6.4g}  {row.steps:<5d}  "
            f"{rounded(row.spent_epsilon)}"
        )
    return lines
