"""`cotune chat`: a release answers beside the base model it was trained from."""

from pathlib import Path
from typing import Annotated

import typer


def chat(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The release/ folder of a run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="e.g. model.device=cpu chat.new_tokens=200"),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", help="Answer this and end; may be given several times. Without it, a conversation."
        ),
    ] = None,
) -> None:
    """Answer prompts with the base model and the tuned one side by side."""
    from ..conf.compose import compose
    from ..errors import UserError

    if not folder.is_dir():
        # Before torch is imported: a wrong folder should not take ten seconds to be refused.
        raise UserError(f"{folder}: no such folder", "give the release/ folder that a run wrote")
    settings = compose(overrides or [])

    from rich.console import Console

    from ..release.chat import show, talk
    from ..release.loading import open_release

    console = Console()
    model = settings.model
    given = any(word.partition("=")[0] in ("model", "model.name") for word in overrides or [])
    source = model.source if given else None
    release = open_release(folder, settings.cache, model.device, model.dtype, settings.chat.new_tokens, source=source)
    if not prompt:
        talk(release, console)
    for text in prompt or []:
        show(console, text, release.answer(text))
