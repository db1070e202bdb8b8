"""Records -> tokens through the model's own chat template, with the place where the answer begins.

The loss is taken on the answer and its end-of-turn token only: a model that never learns to stop does not stop.
A template is a program of the model's author: it runs under limits (`rendering`), and what it wrote is checked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .records import PLAIN, Message, Record
from .rendering import TemplateError, TemplateLimit, render
from .special_text import special_tokens

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Example:
    """One tokenized record.

    Attributes:
        tokens: int32 [T], prompt, answer, end-of-turn token.
        answer_start: index of the answer's first token, in [1, T).
        unit: id of the privacy unit.
        label: the class of the answer, or empty.
    """

    tokens: NDArray[np.int32]
    answer_start: int
    unit: str
    label: str


def encode(record: Record, tokenizer: Any, context_length: int) -> Example:
    """Tokenize prompt and answer.

    Args:
        record: one record.
        tokenizer: a Hugging Face tokenizer, with a chat template unless the record is a completion.
        context_length: the most tokens.

    Raises:
        UserError: no chat template, one that needs too much time or memory, leaves out a turn, or does not put the
            answer behind the unchanged prompt; a text that holds a special token; too long.

    Guarantees: `tokens[:answer_start]` equals `encode_prompt` of the same record.
    Edge cases: a line break that a template writes behind the end-of-turn token is cut off; where a template writes no
        such token, the end-of-text token is added.
    """
    _require_text(record.answer, tokenizer)
    prompt = encode_prompt(record, tokenizer, context_length).tolist()
    if record.prompt[0].role == PLAIN:
        answer = _ids(tokenizer(record.answer, add_special_tokens=False))
        answer.append(_end_of_text(tokenizer))
    else:
        full = _chat(tokenizer, (*record.prompt, Message("assistant", record.answer)), prompt_only=False)
        if full[: len(prompt)] != prompt:
            raise UserError(
                f"the chat template of {_name(tokenizer)} does not continue its own prompt",
                "use another model, or the form completion",
            )
        answer = _until_end_of_turn(full[len(prompt) :], tokenizer)
    _require_fit(len(prompt) + len(answer), context_length)
    return Example(np.array(prompt + answer, dtype=np.int32), len(prompt), record.unit, record.label)


def encode_prompt(record: Record, tokenizer: Any, context_length: int) -> NDArray[np.int32]:
    """Tokens up to where the answer begins, int32 [T], T < `context_length`.

    Raises:
        UserError: as `encode`.
    """
    for message in record.prompt:
        _require_text(message.content, tokenizer)
    if record.prompt[0].role == PLAIN:
        tokens = _ids(tokenizer(record.prompt[0].content))
        if tokens and tokens[-1] == tokenizer.eos_token_id:  # some tokenizers close every text; this one goes on
            tokens.pop()
    else:
        tokens = _chat(tokenizer, record.prompt, prompt_only=True)
    if not tokens:
        raise UserError(f"{_name(tokenizer)} makes no token of a prompt", "use another model")
    _require_fit(len(tokens) + 1, context_length)
    return np.array(tokens, dtype=np.int32)


def encode_all(records: Sequence[Record], tokenizer: Any, context_length: int) -> list[Example]:
    """`encode` of each record; an error also names the row, from 1.

    Raises:
        UserError: as `encode`.
    """
    return each(records, lambda record: encode(record, tokenizer, context_length), "record")


def each(records: Sequence[Record], make: Callable[[Record], Made], name: str) -> list[Made]:
    """What `make` makes of each record.

    Raises:
        UserError: as `make`, behind the row: `name` and its number, from 1.
    """
    made = []
    for number, record in enumerate(records, 1):
        try:
            made.append(make(record))
        except UserError as error:
            raise UserError(f"{name} {number}: {error.what}", error.mend) from None
    return made


def _chat(tokenizer: Any, messages: Sequence[Message], prompt_only: bool) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"{_name(tokenizer)} has no chat template", "use an instruct model, or the form completion")
    try:
        template = tokenizer.get_chat_template()
        text = render(template, tokenizer.special_tokens_map, messages, prompt_only)
    except (TemplateError, ValueError) as error:
        raise UserError(
            f"the chat template of {_name(tokenizer)} refuses this conversation ({error})",
            "mend the order of roles, or move the system message into the user's turn",
        ) from None
    except TemplateLimit as error:
        raise UserError(f"the chat template of {_name(tokenizer)} {error}", "use another model") from None
    except OSError as error:
        raise UserError(f"no process for the chat template: {error.strerror}", "let this user start one") from error
    _require_turns(messages, text, tokenizer)
    return _ids(tokenizer(text, add_special_tokens=False))


def _require_turns(messages: Sequence[Message], text: str, tokenizer: Any) -> None:
    """What was asked stands in what was rendered. Assistants' turns need not: some templates cut their reasoning."""
    for message in messages:
        if message.role != "assistant" and message.content.strip() not in text:
            raise UserError(
                f"the chat template of {_name(tokenizer)} leaves out or changes the {message.role}'s message",
                "move it into the user's turn" if message.role == "system" else "use another model",
            )


def _require_text(text: str, tokenizer: Any) -> None:
    """What people wrote stays text."""
    if found := special_tokens(tokenizer).found(text, tokenizer):
        raise UserError(
            f"the text holds {found!r}, a special token of {_name(tokenizer)}", "write it in another way or drop it"
        )


def _until_end_of_turn(tokens: list[int], tokenizer: Any) -> list[int]:
    """The answer up to the last special token in it, or with an end-of-text token where there is none."""
    special = special_tokens(tokenizer).ids
    ends = [index for index, token in enumerate(tokens) if token in special]
    if not ends:
        return [*tokens, _end_of_text(tokenizer)]
    return tokens[: ends[-1] + 1]


def _end_of_text(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise UserError(f"{_name(tokenizer)} has no end-of-text token", "set the tokenizer's eos_token")
    return int(tokenizer.eos_token_id)


def _ids(encoded: Any) -> list[int]:
    return [int(token) for token in encoded["input_ids"]]


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")


def _require_fit(tokens: int, context_length: int) -> None:
    if tokens > context_length:
        raise UserError(
            f"{tokens} tokens do not fit into the context of {context_length}",
            "shorten the record, or agree on a larger model.context_length",
        )
