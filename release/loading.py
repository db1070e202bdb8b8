"""A release with the base model that it belongs to, ready to answer: a PEFT model, its tokenizer, what it says."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from ..data.records import PLAIN, Message, Record
from ..errors import UserError
from ..evaluation.generate import greedy_answers
from ..evaluation.prompts import bare_answer, end_tokens, prompt_tokens
from ..spelling import is_blank
from ..training.adapter import attach, schema_of, set_flat
from ..training.base import BaseModel, load_base
from ..training.source import ModelSource
from .reading import ReleaseConfig, read_release

# The most tokens of an answer, where nobody says otherwise.
NEW_TOKENS = 64


@dataclass(frozen=True, eq=False)
class LoadedRelease:
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
        record = self._record(prompt)
        return bare_answer(base, record, self.tokenizer), bare_answer(tuned, record, self.tokenizer)

    def _encode(self, prompt: str) -> tuple[NDArray[np.int32], list[int]]:
        record, length = self._record(prompt), self.config.context_length
        return prompt_tokens(record, self.tokenizer, length), end_tokens(record, self.tokenizer, length)

    def _record(self, prompt: str) -> Record:
        preamble = (Message(role, content) for role, content in self.config.preamble)
        # As in training: text that goes on needs no chat template, and must not go through one.
        plain_text = self.config.form == "completion"
        turns = (Message(PLAIN, prompt),) if plain_text else (*preamble, Message("user", prompt))
        return Record(prompt=turns, answer="-", unit="chat")

    def _greedy(self, tokens: NDArray[np.int32], ends: list[int]) -> str:
        return greedy_answers(self.model, self.tokenizer, [tokens], ends, self.new_tokens, batch_tokens=1)[0]


Loader = Callable[[ModelSource, Path, str, str], BaseModel]


def open_release(
    folder: Path,
    cache: Path,
    device: str,
    dtype: str,
    new_tokens: int = NEW_TOKENS,
    load: Loader = load_base,
    source: ModelSource | None = None,
) -> LoadedRelease:
    """Load a release and the base model that it names.

    Args:
        folder: the release.
        cache: where downloaded and dequantized models are kept.
        device: as for `load_base`.
        dtype: as for `load_base`.
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
    return LoadedRelease(model, base.tokenizer, config, new_tokens)


def _source(folder: Path, config: ReleaseConfig) -> ModelSource:
    """Where the base model is: a release names no folder, but its run does, as long as the release lies in it."""
    if config.base.source is not None:
        return config.base.source
    try:
        model = json.loads((folder.absolute().parent / "settings.json").read_bytes())["model"]
        return ModelSource.model_validate({name: model[name] for name in ModelSource.model_fields})
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"{folder}: the base model {config.base.name} was a folder on another machine",
            "say where it is here: model=local model.name=FOLDER",
        ) from None
