"""`cotune chat`: a release answers beside the base model it was trained from."""

from collections.abc import Callable

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from ..errors import UserError
from ..spelling import printable
from .loading import LoadedRelease

# Texts of a release or a model are shown as lines; rich lets escape sequences through.
_LINES = "\n\t"


def show(console: Console, prompt: str, answers: tuple[str, str]) -> None:
    """Print base and tuned answers side by side."""
    width = max(20, (console.width - 2) // 2)
    panels = [
        Panel(Text(answer or "(nothing)"), title=title, title_align="left", width=width, border_style=style)
        for title, style, answer in zip(
            ("base", "tuned"), ("dim", "green"), (printable(answer, _LINES) for answer in answers), strict=True
        )
    ]
    console.print(Text(f"> {prompt}", style="bold"), soft_wrap=True)
    console.print(Columns(panels, padding=(0, 1)))


def talk(chat: LoadedRelease, console: Console, read: Callable[[], str] | None = None) -> None:
    """Answer prompts until the end of input, "exit" or Ctrl-C. Every prompt starts anew: nothing is remembered.

    Args:
        chat: the release.
        console: where to print.
        read: returns the next prompt, raises EOFError at the end; None asks on the console.
    """
    console.print(
        Text(f"{printable(chat.config.federation)}: base and tuned side by side. Ctrl-D or exit ends.", style="dim")
    )
    if chat.config.hidden_turns:
        note = "In training, turns that this release does not show may have stood before the prompt."
        console.print(Text(note, style="dim"), soft_wrap=True)
    if chat.config.example_prompt:
        console.print(Text(f"Try: {printable(chat.config.example_prompt, _LINES)}", style="dim"), soft_wrap=True)
    ask = read if read is not None else lambda: console.input("[bold]prompt>[/] ")
    while True:
        try:
            prompt = ask().strip()
            if prompt in ("exit", "quit"):
                return
            if prompt:
                show(console, prompt, chat.answer(prompt))
        except UserError as problem:
            console.print(Text(printable(str(problem)), style="red"), soft_wrap=True)
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
