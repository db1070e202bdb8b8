"""`cotune privacy`: plan a run's noise before it starts, and show what an organization's ledger says was spent."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..conf.schema import Settings

app = typer.Typer(help="Noise for a budget, and the ledger of what was spent.", no_args_is_help=True)


@app.command()
def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="e.g. privacy.epsilon=3 rounds=50 data.units_per_organization=2000"
        ),
    ] = None,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", help="One line for each of key=1,2,3.")] = False,
) -> None:
    """The noise multiplier that holds a whole run within its epsilon and delta."""
    from ..conf.compose import compose, sweep

    given = overrides or []
    runs = sweep(given) if multirun else [compose(given)]
    typer.echo("epsilon  delta      units  rate   steps  noise multiplier  epsilon reached")
    for settings in runs:
        typer.echo(_planned(settings))


def _planned(settings: "Settings") -> str:
    from ..privacy.accounting import calibrate, epsilon

    privacy, units = settings.privacy, settings.data.units_per_organization
    if privacy.epsilon is None:
        raise UserError("privacy.enabled=false has no budget to plan", "choose privacy=dp")
    if units is None:
        raise UserError("the number of units is not known before the files are read", "set data.units_per_organization")
    delta, steps = privacy.delta_for(units), settings.rounds * settings.strategy.steps_per_round
    sigma = calibrate(privacy.epsilon, delta, privacy.sample_rate, steps)
    reached = epsilon([(sigma, privacy.sample_rate, steps)], delta)
    return (
        f"{privacy.epsilon:<7g}  {delta:<9.3g}  {units:<5d}  {privacy.sample_rate:<5g}  {steps:<5d}  "
        f"{sigma:<16.3f}  {reached:.3f}"
    )


@app.command()
def show(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="An organization's folder, or a ledger file.")],
) -> None:
    """Check an organization's ledger and print what each data set and unit has spent."""
    from ..privacy.ledger import Ledger

    path = home / "ledger.sqlite" if home.is_dir() else home
    if not path.is_file():
        raise UserError(f"{path}: no ledger there", "name an organization's folder; a run keeps them in its run folder")
    ledger = Ledger(path)
    head = ledger.verify()
    typer.echo("data set      unit                  delta      budget  spent   left    steps  rounds")
    for account in ledger.statement():
        typer.echo(
            f"{account.data_set[:12]:<12}  {account.unit[:20]:<20}  {account.delta:<9.3g}  "
            f"{account.budget_epsilon:<6g}  {account.spent_epsilon:<6.3f}  {account.left_epsilon:<6.3f}  "
            f"{account.steps:<5d}  {account.charges}"
        )
    typer.echo(f"chain intact, head {head}")
