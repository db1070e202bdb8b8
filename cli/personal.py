"""`cotune personal`: after a federation an organization makes an adapter of its own, within the charter's epsilon."""

from pathlib import Path
from typing import Annotated

import typer


def personal(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="An organization's folder.")],
    weight: Annotated[
        float | None,
        typer.Option(
            help="How far to follow your own contributions, 0 to 100 (default 2), where no steps are planned."
        ),
    ] = None,
    ended: Annotated[bool, typer.Option("--ended", help="The run has ended, though before its last round.")] = False,
) -> None:
    """Make an adapter of this organization's own, which stays in HOME/personal.

    Takes the personal steps that the charter plans; where it plans none, goes further along what this node has
    contributed, which costs no epsilon.
    """
    from ..client.home import NodeHome
    from ..client.personal import WEIGHT, Individual

    def told(step: int, loss: float) -> None:
        typer.echo(f"step {step}: loss {loss:.3f} nats a token (noised)")

    node = NodeHome(home)
    with node.locked():
        organization = Individual(node)
        if weight is None and organization.charter.personal_steps:
            done = organization.personalize(ended, told)
        else:
            done = organization.further(WEIGHT if weight is None else weight, ended)
    what = (
        f"{done.steps} personal steps" if done.steps else f"followed the contributions to {done.rounds} of the rounds"
    )
    typer.echo(f"{what}; the adapter is in {node.personal_folder} and was sent to nobody")
