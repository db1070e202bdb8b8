"""`cotune chat`: a release answers beside the base model it was trained from."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel
from pydantic import TypeAdapter, ValidationError
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from ..data.records import PLAIN, Message, Record
from ..errors import UserError
from ..evaluation.generate import greedy_answers
from ..evaluation.prompts import end_tokens, prompt_tokens
from ..spelling import is_blank, printable
from ..training.adapter import attach, schema_of, set_flat
from ..training.base import BaseModel, ModelSource, load_base
from .reading import ReleaseConfig, read_release

# Texts of a release or a model are shown as lines; rich lets escape sequences through.
_LINES = "\n\t"


@dataclass(frozen=True, eq=False)
class Chat:
    """A loaded release.

    Attributes:
        model: the base model with the released adapter.
        tokenizer: of the base model.
        config: of the release.
        new_tokens: the most tokens of an answer.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    config: ReleaseConfig
    new_tokens: int

    def answer(self, prompt: str) -> tuple[str, str]:
        """(answer of the base model, answer of the tuned model), both greedy.

        Raises:
            UserError: an empty prompt, or one longer than the context.
        """
        if is_blank(prompt):
            raise UserError("the prompt is empty", "write a question")
        tokens, ends = self._encode(prompt)
        tuned = self._greedy(tokens, ends)
        with self.model.disable_adapter():
            base = self._greedy(tokens, ends)
        return base, tuned

    def _encode(self, prompt: str) -> tuple[NDArray[np.int32], list[int]]:
        preamble = (Message(role, content) for role, content in self.config.preamble)
        # As in training: text that goes on needs no chat template, and must not go through one.
        plain_text = self.config.form == "completion"
        turns = (Message(PLAIN, prompt),) if plain_text else (*preamble, Message("user", prompt))
        record = Record(prompt=turns, answer="-", unit="chat")
        length = self.config.context_length
        return prompt_tokens(record, self.tokenizer, length), end_tokens(record, self.tokenizer, length)

    def _greedy(self, tokens: NDArray[np.int32], ends: list[int]) -> str:
        return greedy_answers(self.model, self.tokenizer, [tokens], ends, self.new_tokens, batch_tokens=1)[0]


Loader = Callable[[ModelSource, Path, str, str], BaseModel]


def open_release(
    folder: Path,
    cache: Path,
    device: str,
    dtype: str,
    new_tokens: int,
    load: Loader = load_base,
    source: ModelSource | None = None,
) -> Chat:
    """Load a release and the base model that it names.

    Args:
        folder: the release.
        cache: where downloaded and dequantized models are kept.
        device, dtype: as for `load_base`.
        new_tokens: the most tokens of an answer.
        load: loads a base model.
        source: where the base model is; None: where the release says or, for a folder, where its run had it.

    Raises:
        UserError: not a release, a damaged one, or a base model or tokenizer other than the pinned one.
    """
    released = read_release(folder)
    config = released.config
    base = load(source or _source(folder, config), cache, device, dtype)
    for what, found, pinned in (
        ("base model", base.digest, config.base.digest),
        ("tokenizer", base.tokenizer_digest, config.base.tokenizer_digest),
    ):
        if found != pinned:
            raise UserError(
                f"{folder}: pins the {what} {pinned[:12]}..., {config.base.name} here is {found[:12]}...",
                "load the very model that the release was trained on",
            )
    model = attach(base, released.lora)
    if schema_of(model).digest != released.schema.digest:
        raise UserError(f"{folder}: the adapter does not fit {config.base.name}", "load the model it was trained on")
    set_flat(model, released.adapter)
    return Chat(model, base.tokenizer, config, new_tokens)


def _source(folder: Path, config: ReleaseConfig) -> ModelSource:
    """Where the base model is: a release names no folder, but its run does, as long as the release lies in it."""
    said: object = config.base.source
    if said is None:
        try:
            model = json.loads((folder.absolute().parent / "settings.json").read_bytes())["model"]
            said = {field.name: model[field.name] for field in fields(ModelSource)}
        except (OSError, ValueError, LookupError, TypeError):
            raise UserError(
                f"{folder}: the base model {config.base.name} was a folder on another machine",
                "say where it is here: model=local model.name=FOLDER",
            ) from None
    try:
        return TypeAdapter(ModelSource).validate_python(said)
    except ValidationError:
        raise UserError(f"{folder}: does not say where its base model comes from", "copy the release again") from None


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


def talk(chat: Chat, console: Console, read: Callable[[], str] | None = None) -> None:
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
