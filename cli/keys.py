"""`cotune keys`: an organization's identity, a key that never leaves its machine."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="An organization's or coordinator's identity.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `new` a verb of its own: Typer folds an app of a single command into its parent."""


@app.command()
def new(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where the private key goes; must not exist.")],
    suite: Annotated[
        Literal["classic", "hybrid"],
        typer.Option(help="As the charter's secagg.suite; hybrid is post-quantum as well."),
    ] = "classic",
) -> None:
    """Write a new private key, readable by you only, and print its public key for the charter."""
    from ..charter.signing import fingerprint, new_key, public_hex
    from ..secagg.suites import CLASSIC, HYBRID

    public = public_hex(new_key(path, HYBRID if suite == HYBRID.name else CLASSIC))
    typer.echo(f"private key   {path} (keep it; never send it)")
    typer.echo(f"public key    {public}")
    typer.echo(f"fingerprint   {fingerprint(public)} (read it aloud to the others)")
