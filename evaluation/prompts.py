"""Test prompts and candidate answers as tokens, exactly as training sees them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..data.records import Record
from ..data.special_text import special_tokens
from ..data.template import around, each, encode, encode_prompt


def prompt_tokens(record: Record, tokenizer: PreTrainedTokenizerBase, context_length: int) -> NDArray[np.int32]:
    """The prompt of a record up to where the answer starts, int32 [T]."""
    return encode_prompt(record, tokenizer, context_length)


def all_prompt_tokens(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, context_length: int
) -> list[NDArray[np.int32]]:
    """`prompt_tokens` of each record; an error also names the row, from 1.

    Raises:
        UserError: a prompt is longer than the context, or the chat template refuses it.
    """
    return each(records, lambda record: prompt_tokens(record, tokenizer, context_length), "test row")


def label_tokens(
    record: Record, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, context_length: int
) -> list[tuple[int, ...]]:
    """Tokens of each label as the answer to `record`, end of turn included."""
    examples = [encode(replace(record, answer=label), tokenizer, context_length) for label in labels]
    return [tuple(int(token) for token in example.tokens[example.answer_start :]) for example in examples]


def end_tokens(record: Record, tokenizer: PreTrainedTokenizerBase, context_length: int) -> list[int]:
    """Tokens at which generation stops: the end of turn that training teaches, and every other special token.

    No answer holds one, but for those that the template itself writes before the answers. Models name some more ends
    in a file of their own, generation_config.json, which no digest covers; they are special tokens too.
    """
    example = encode(record, tokenizer, context_length)
    taught = [int(token) for token in example.tokens[example.answer_start :]]
    ends = special_tokens(tokenizer).ids - {*taught} | {taught[-1]}
    if tokenizer.eos_token_id is not None:
        ends |= {int(tokenizer.eos_token_id)}
    return sorted(ends)


def bare_answer(text: str, record: Record, tokenizer: PreTrainedTokenizerBase) -> str:
    """A decoded answer without what the chat template writes around every one, such as an empty block of thoughts."""
    opening, closing = around(record, tokenizer)
    return text.strip().removeprefix(opening).removesuffix(closing).strip()
