"""`cotune keys`: an organization's identity, an Ed25519 key that never leaves its machine."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="An organization's or coordinator's identity.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `new` a verb of its own: Typer folds an app of a single command into its parent."""


@app.command()
def new(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where the private key goes; must not exist.")],
) -> None:
    """Write a new private key, readable by you only, and print its public key for the charter."""
    from ..charter.signing import fingerprint, new_key, public_hex

    public = public_hex(new_key(path))
    typer.echo(f"private key   {path} (keep it; never send it)")
    typer.echo(f"public key    {public}")
    typer.echo(f"fingerprint   {fingerprint(public)} (read it aloud to the others)")
