"""`cotune strategy`: a strategy of one's own, before it is drafted into a charter or allowed by a policy."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="A strategy of one's own: one file of Python.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `show` a verb of its own: Typer folds an app of a single command into its parent."""


@app.command()
def show(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file, as it came or as you wrote it; it is not run.")
    ],
) -> None:
    """The file's digest, what it imports, and the lines that let a node run it. Read the file before you use them."""
    from ..spelling import printable
    from ..strategies.own import read_code

    code = read_code(file)
    imports = printable(", ".join(code.imports)) or "nothing"
    typer.echo(f"{file}: {len(code.content):,} bytes, imports {imports}")
    typer.echo(f"sha256       {code.digest}")
    typer.echo("policy.yaml  strategies:")
    typer.echo(f"             - {code.digest}")
