"""The command's entry: which verbs there are, and how an error reaches a person.

A `UserError` is one line on standard error and exit code 2, Ctrl-C is one line and 130. Anything else is a bug and
keeps its traceback; `--debug` shows the traceback of the others too.
"""

import re
import sys
from collections.abc import Sequence

import click
import typer

from .. import __version__
from ..errors import UserError
from ..offline import go_offline
from ..spelling import printable
from . import audits, charter, chat, keys, personal, privacy, runs, strategy, transcript

USER_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    name="cotune",
    help="Organizations fine-tune one language model together; their records stay at home.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(runs.demo)
app.command()(runs.simulate)
app.command()(runs.study)
app.command()(runs.tune)
app.command()(chat.chat)
app.command()(personal.personal)
privacy.app.command()(audits.audit)
privacy.app.command()(audits.invert)
app.add_typer(privacy.app, name="privacy")
app.add_typer(keys.app, name="keys")
app.add_typer(charter.app, name="charter")
app.add_typer(strategy.app, name="strategy")
app.add_typer(transcript.app, name="transcript")


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks; may stand anywhere on the line."),
) -> None:
    """`main` reads --debug itself; it stands here for the help and for its place before the verb."""


@app.command()
def version() -> None:
    """Print the version, and what computes masks and hashes on this machine."""
    from ..secagg import kernel

    typer.echo(f"cotune {__version__}\n{kernel.described()}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process with its exit code.

    Args:
        arguments: without the program's name; None takes the process's own.

    Raises:
        SystemExit: always.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    go_offline()
    try:
        code = app([word for word in given if word != "--debug"], prog_name="cotune", standalone_mode=False)
    except UserError as error:
        _end(error, str(error), USER_ERROR, debug)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except click.ClickException as error:
        # Typer and click both suggest.
        text = re.sub(r"(Did you mean .+?\?) \(?Did you mean .+", r"\1", error.format_message())
        verb = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "cotune"
        _end(error, f"{text.rstrip('.')}: see {verb} --help", USER_ERROR, debug)
    except (click.Abort, KeyboardInterrupt) as error:
        _end(error, "stopped", INTERRUPTED, debug)
    if code == INTERRUPTED and not debug:
        # Typer turns Ctrl-C inside a verb into this code, without a word.
        print("stopped", file=sys.stderr)
    raise SystemExit(code if isinstance(code, int) else 0)


def _end(error: BaseException, text: str, code: int, debug: bool) -> None:
    if debug:
        raise error
    # A column's or a model's name may hold terminal codes.
    line = printable(" ".join(text.split()))
    print(f"error: {line}" if code == USER_ERROR else line, file=sys.stderr)
    raise SystemExit(code)
