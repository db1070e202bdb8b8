"""Records -> tokens through the model's own chat template, with the place where the answer begins.

The loss is taken on the answer and its end-of-turn token only: a model that never learns to stop does not stop.
A template is a program of the model's author: it runs under limits (`rendering`), and what it wrote is checked.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .layout import Layout, layout
from .records import PLAIN, Message, Record
from .rendering import TemplateError, TemplateLimit, render
from .special_text import special_tokens

Found = TypeVar("Found")
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
        UserError: no chat template, one that needs too much time or memory, leaves out or changes a turn, or does not
            put the answer behind the unchanged prompt; a text that holds a special token; too long.

    Guarantees: `tokens[:answer_start]` equals `encode_prompt` of the same record. The tokens are those of the whole
        text, but for where a tokenizer would join the prompt's last letters with the answer's first: there it is cut.
    Edge cases: the answer ends with the first special token behind it, whatever a template writes after that; where a
        template writes no such token, the end-of-text token is added.
    """
    _require_text(record.answer, tokenizer)
    prompt = encode_prompt(record, tokenizer, context_length).tolist()
    if record.prompt[0].role == PLAIN:
        whole = _without_end(_ids(tokenizer(record.prompt[0].content + record.answer)), tokenizer)
        if whole[: len(prompt)] == prompt:
            answer = whole[len(prompt) :]
        else:
            answer = _ids(tokenizer(record.answer, add_special_tokens=False))
        answer.append(_end_of_text(tokenizer))
    else:
        answer = _until_end_of_turn(_behind(prompt, record, tokenizer), record, tokenizer)
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
        tokens = _without_end(_ids(tokenizer(record.prompt[0].content)), tokenizer)
    else:
        tokens = _ids(tokenizer(_chat(tokenizer, record.prompt, prompt_only=True), add_special_tokens=False))
    if not tokens:
        raise UserError(f"{_name(tokenizer)} makes no token of a prompt", "use another model")
    _require_fit(len(tokens) + 1, context_length)
    return np.array(tokens, dtype=np.int32)


def around(record: Record, tokenizer: Any) -> tuple[str, str]:
    """What the chat template itself writes before and behind the answer to a record, as it reads in a decoded answer.

    A model is taught that too, such as an empty block of thoughts, and it is no part of the answer.

    Raises:
        UserError: as `encode`.
    """
    if record.prompt[0].role == PLAIN:
        return "", ""
    found = _layout(tokenizer, [*(turn.role for turn in record.prompt), "assistant"], prompt_only=False)
    closing = special_tokens(tokenizer).pattern.split(found.closing, maxsplit=1)[0]
    return _visible(found.opening, tokenizer), _visible(closing, tokenizer)


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


def _behind(prompt: list[int], record: Record, tokenizer: Any) -> list[int]:
    """What the template writes behind the prompt, as tokens."""
    text = _chat(tokenizer, (*record.prompt, Message("assistant", record.answer)), prompt_only=False)
    whole = _ids(tokenizer(text, add_special_tokens=False))
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :]
    before = _chat(tokenizer, record.prompt, prompt_only=True)
    if text.startswith(before):
        # The tokenizer has a token for letters on both sides; what a model continues are the prompt's own tokens.
        behind = _ids(tokenizer(text[len(before) :], add_special_tokens=False))
        if _decoded(prompt + behind, tokenizer) == _decoded(whole, tokenizer):
            return behind
        what = "the tokenizer of {} does not cut between prompt and answer"
    else:
        what = "the chat template of {} does not continue its own prompt"
    raise UserError(what.format(_name(tokenizer)), "use another model, or the form completion")


def _chat(tokenizer: Any, messages: Sequence[Message], prompt_only: bool) -> str:
    """The text of a conversation, in which every turn stands as it was written."""
    found = _layout(tokenizer, [message.role for message in messages], prompt_only)
    if found.lost:
        raise _changed(found.lost, tokenizer)
    text = _rendered(
        tokenizer,
        lambda template, names: render(template, names, messages, prompt_only, found.in_parts),
    )
    _require_turns(messages, text, tokenizer)
    return text


def _layout(tokenizer: Any, roles: Sequence[str], prompt_only: bool) -> Layout:
    return _rendered(tokenizer, lambda template, names: layout(template, names, roles, prompt_only))


def _rendered(tokenizer: Any, made: Callable[[str, dict[str, Any]], Found]) -> Found:
    """What is made by the tokenizer's chat template and the names of its special tokens."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"{_name(tokenizer)} has no chat template", "use an instruct model, or the form completion")
    try:
        return made(tokenizer.get_chat_template(), tokenizer.special_tokens_map)
    except (TemplateError, ValueError) as error:
        raise UserError(
            f"the chat template of {_name(tokenizer)} refuses this conversation ({error})",
            "mend the order of roles, or move the system message into the user's turn",
        ) from None
    except TemplateLimit as error:
        raise UserError(f"the chat template of {_name(tokenizer)} {error}", "use another model") from None
    except OSError as error:
        raise UserError(f"no process for the chat template: {error.strerror}", "let this user start one") from error


_THOUGHTS = re.compile(r"</?think>")


def _require_turns(messages: Sequence[Message], text: str, tokenizer: Any) -> None:
    """What was written stands in what was rendered; of earlier answers some templates cut the thoughts.

    Those set thoughts apart by blanks of their own, so each piece is looked for by itself.
    """
    for place, message in enumerate(messages, 1):
        pieces = _THOUGHTS.split(message.content) if message.role == "assistant" else [message.content]
        looked_for = pieces if place == len(messages) else pieces[-1:]
        if any(piece.strip() not in text for piece in looked_for):
            raise _changed(message.role, tokenizer)


def _changed(role: str, tokenizer: Any) -> UserError:
    return UserError(
        f"the chat template of {_name(tokenizer)} leaves out or changes the {role}'s message",
        "move it into the user's turn" if role == "system" else "use another model",
    )


def _require_text(text: str, tokenizer: Any) -> None:
    """What people wrote stays text."""
    if found := special_tokens(tokenizer).found(text, tokenizer):
        raise UserError(
            f"the text holds {found!r}, a special token of {_name(tokenizer)}", "write it in another way or drop it"
        )


def _until_end_of_turn(tokens: list[int], record: Record, tokenizer: Any) -> list[int]:
    """The answer up to the first special token behind it, or with an end-of-text token where there is none."""
    special = special_tokens(tokenizer)
    found = _layout(tokenizer, [*(turn.role for turn in record.prompt), "assistant"], prompt_only=False)
    before = len(special.pattern.findall(found.opening))  # those that the template writes before the answer
    ends = [index for index, token in enumerate(tokens) if token in special.ids]
    if len(ends) <= before:
        return [*tokens, _end_of_text(tokenizer)]
    return tokens[: ends[before] + 1]


def _without_end(tokens: list[int], tokenizer: Any) -> list[int]:
    """Some tokenizers close every text; this one goes on."""
    return tokens[:-1] if tokens and tokens[-1] == tokenizer.eos_token_id else tokens


def _end_of_text(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise UserError(f"{_name(tokenizer)} has no end-of-text token", "set the tokenizer's eos_token")
    return int(tokenizer.eos_token_id)


def _ids(encoded: Any) -> list[int]:
    return [int(token) for token in encoded["input_ids"]]


def _decoded(tokens: list[int], tokenizer: Any, skip_special_tokens: bool = False) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False))


def _visible(text: str, tokenizer: Any) -> str:
    """A template's own text as it reads where answers are decoded: without special tokens."""
    return _decoded(_ids(tokenizer(text, add_special_tokens=False)), tokenizer, True).strip()


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")


def _require_fit(tokens: int, context_length: int) -> None:
    if tokens > context_length:
        raise UserError(
            f"{tokens} tokens do not fit into the context of {context_length}",
            "shorten the record, or agree on a larger model.context_length",
        )
