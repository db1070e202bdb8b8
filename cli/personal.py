"""`cotune personal`: after a federation an organization goes on alone, within the charter's epsilon."""

from pathlib import Path
from typing import Annotated

import typer


def personal(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="An organization's folder.")],
    ended: Annotated[bool, typer.Option("--ended", help="The run has ended, though before its last round.")] = False,
) -> None:
    """Take the charter's personal steps on this organization's records; the adapter stays in HOME/personal."""
    from ..client.home import Home
    from ..client.personal import Individual

    def told(step: int, loss: float) -> None:
        typer.echo(f"step {step}: loss {loss:.3f} nats a token (noised)")

    node = Home(home)
    with node.locked():
        done = Individual(node).personalize(ended, told)
    typer.echo(f"{done.steps} personal steps; the adapter is in {node.personal_folder} and was sent to nobody")
