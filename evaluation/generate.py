"""Greedy answers, and how many of them are right word for word."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.records import Record
from ..errors import UserError
from ..spelling import plain
from .prompts import all_prompt_tokens, bare_answer, end_tokens


def exact_match(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    context_length: int,
    new_tokens: int,
    batch_tokens: int,
) -> float:
    """Share of records whose greedy answer is the right one, however it is spelled (`spelling.plain`), in [0, 1].

    The slow way, and the reference for `Trainer.exact`.

    Args:
        model: with the adapter set; all layers are run.
        tokenizer: its tokenizer.
        records: the rows to try, usually the first few of the test set.
        context_length: tokens, as in training.
        new_tokens: the most tokens of an answer, end of turn included.
        batch_tokens: padded tokens, prompt and answer, that pass through the model at once.

    Raises:
        UserError: there are no records.
    """
    answers = answers_of(model, tokenizer, records, context_length, new_tokens, batch_tokens)
    right = sum(plain(answer) == plain(record.answer) for answer, record in zip(answers, records, strict=True))
    return right / len(records)


def answers_of(
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    context_length: int,
    new_tokens: int,
    batch_tokens: int,
) -> list[str]:
    """The greedy answer to each record's prompt, without what the chat template itself writes around answers.

    Arguments and errors as those of `exact_match`.
    """
    if not records:
        raise UserError("no rows to generate answers for", "set the number of rows to 1 or more")
    prompts = all_prompt_tokens(records, tokenizer, context_length)
    ends = end_tokens(records[0], tokenizer, context_length)
    found = greedy_answers(model, tokenizer, prompts, ends, new_tokens, batch_tokens)
    return [bare_answer(answer, record, tokenizer) for answer, record in zip(found, records, strict=True)]


def greedy_answers(
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[NDArray[np.int32]],
    ends: Sequence[int],
    new_tokens: int,
    batch_tokens: int,
) -> list[str]:
    """Greedy answers in the order of the prompts, without special tokens and white space around them.

    Prompts of similar length share a batch and are padded on the left, so that all answers start at one position.

    Args:
        prompts: token ids, int32 [T] each.
        ends: token ids that end an answer.
    """
    order = sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row))
    answers = [""] * len(prompts)
    start = 0
    while start < len(order):
        width = len(prompts[order[start]])
        rows = order[start : start + max(1, batch_tokens // (width + new_tokens))]
        written = _generate(model, [prompts[row] for row in rows], ends, new_tokens)
        for row, tokens in zip(rows, written, strict=True):
            words = tokenizer.decode(_until(tokens, ends), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            answers[row] = str(words).strip()
        start += len(rows)
    return answers


def _generate(
    model: PeftModel | PreTrainedModel, prompts: Sequence[NDArray[np.int32]], ends: Sequence[int], new_tokens: int
) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    inputs = np.full((len(prompts), width), ends[0], dtype=np.int64)
    mask = np.zeros((len(prompts), width), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        inputs[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    greedy = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=new_tokens, eos_token_id=list(ends), pad_token_id=ends[0]
    )
    inner = model.get_base_model() if isinstance(model, PeftModel) else model  # the very layers, adapter included
    with torch.no_grad(), _settings(inner, greedy):
        written = inner.generate(
            input_ids=torch.from_numpy(inputs).to(inner.device), attention_mask=torch.from_numpy(mask).to(inner.device)
        )
    return [[int(token) for token in row[width:]] for row in written.cpu()]


@contextmanager
def _settings(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Generate with these settings alone: transformers fills whatever a call leaves open from the model's own files."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def _until(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Tokens before the first end."""
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:stop])
