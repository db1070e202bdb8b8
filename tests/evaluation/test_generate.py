"""Greedy answers against a loop of plain forward passes without padding or cache."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from cotune.data.records import Record
from cotune.data.template import encode
from cotune.errors import UserError
from cotune.evaluation import generate
from cotune.evaluation.generate import answers_of, exact_match, greedy_answers
from cotune.evaluation.prompts import all_prompt_tokens, end_tokens
from cotune.training.adapter import LoraSettings, attach, schema_of, set_flat
from cotune.training.base import BaseModel
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MakeBase = Callable[[str], BaseModel]
MakeRows = Callable[..., list[Record]]
LABELS = ("yes", "no")


def tuned(base: BaseModel, lora: LoraSettings) -> PeftModel:
    model = attach(base, lora)
    size = schema_of(model).dimension
    set_flat(model, np.random.default_rng(2).normal(0, 0.3, size).astype(np.float32))
    return model


def slow(base: BaseModel, prompts: list[np.ndarray], ends: list[int], new_tokens: int) -> list[str]:
    answers = []
    for prompt in prompts:
        tokens = [int(token) for token in prompt]
        for _ in range(new_tokens):
            with torch.no_grad():
                best = int(base.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
            if best in ends:
                break
            tokens.append(best)
        answers.append(base.tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True).strip())
    return answers


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_batches_with_padding_answer_as_one_row_at_a_time(
    make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings, family: str, batch_tokens: int
) -> None:
    base = make_small_base(family)
    model = tuned(base, top_lora)
    prompts = all_prompt_tokens(make_rows(7, LABELS), base.tokenizer, 128)
    frequent = slow(base, prompts, [2], 1)[0]
    ends = [2, *base.tokenizer(frequent, add_special_tokens=False)["input_ids"]]  # so that some answers stop early
    for stops in ([2], ends):
        found = greedy_answers(model, base.tokenizer, prompts, stops, 6, batch_tokens)
        assert found == slow(base, prompts, stops, 6)


def test_sampling_settings_of_the_model_take_no_part(
    make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings
) -> None:
    base = make_small_base("llama")
    model = tuned(base, top_lora)
    prompts = all_prompt_tokens(make_rows(4, LABELS), base.tokenizer, 128)
    expected = slow(base, prompts, [2], 6)
    base.model.generation_config.do_sample = True
    base.model.generation_config.temperature = 50.0
    base.model.generation_config.repetition_penalty = 5.0
    assert greedy_answers(model, base.tokenizer, prompts, [2], 6, 4096) == expected


def test_exact_match_counts_whole_answers_only(
    make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings
) -> None:
    base = make_small_base("llama")
    model = tuned(base, top_lora)
    rows = make_rows(4, LABELS)
    ends = end_tokens(rows[0], base.tokenizer, 128)
    said = slow(base, all_prompt_tokens(rows, base.tokenizer, 128), ends, 5)
    assert all(said)

    def share(answers: list[str]) -> float:
        changed = [replace(row, answer=answer) for row, answer in zip(rows, answers, strict=True)]
        return exact_match(model, base.tokenizer, changed, 128, 5, 256)

    assert share(said) == 1.0
    assert share([f"  {said[0]} ", *said[1:]]) == 1.0
    assert share([f"\u200b{said[0]}\u2800", *said[1:]]) == 1.0
    assert share([said[0] + " yes", *said[1:]]) == 0.75
    assert share([said[0].split()[0], *said[1:]]) == (1.0 if len(said[0].split()) == 1 else 0.75)


FRAMES = {
    "bare": ("", "</s> "),
    "an empty block of thoughts": ("<think> </think> ", "</s> "),
    "a channel": ("<channel> w1 <message> ", "</s> "),
    "an end of text behind": ("", "<end> </s> "),
    "words behind": ("", "w2 </s> "),
    "no end": ("", ""),
}


def _framed(opening: str, closing: str) -> PreTrainedTokenizerFast:
    words = ["<unk>", "</s>", "<end>", "<channel>", "<message>", "<stop>", "user", "assistant", "<think>", "</think>"]
    words += [*LABELS, *(f"w{number}" for number in range(40))]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=["<end>", "<channel>", "<message>", "<stop>"],
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} {% if m.role == 'assistant' %}" + opening + "{{ m.content }} " + closing
    ) + "{% else %}{{ m.content }} </s> {% endif %}{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
    return tokenizer


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("more", ["", "<stop>", "</s>"])
def test_who_writes_what_was_taught_is_right_whatever_the_template_adds(
    make_small_base: MakeBase, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch, frame: str, more: str
) -> None:
    """And who comes to another end than that which was taught, such as an untouched base model, is cut there."""
    tokenizer, rows = _framed(*FRAMES[frame]), make_rows(5, LABELS)
    taught = {}
    for row in rows:
        example = encode(row, tokenizer, 128)
        taught[tuple(example.tokens[: example.answer_start])] = [int(t) for t in example.tokens[example.answer_start :]]
    further = tokenizer(f"{more} w3 w4", add_special_tokens=False)["input_ids"]

    def write(_model: object, prompts: list[np.ndarray], *_: object) -> list[list[int]]:
        found = (taught[tuple(prompt)] for prompt in prompts)
        return [[*tokens[:-1], *further] if more else [*tokens, *further] for tokens in found]

    monkeypatch.setattr(generate, "_generate", write)
    model = make_small_base("llama").model
    assert answers_of(model, tokenizer, rows, 128, 8, 256) == [row.answer for row in rows]
    assert exact_match(model, tokenizer, rows, 128, 8, 256) == 1.0


def test_no_rows(make_small_base: MakeBase, top_lora: LoraSettings) -> None:
    base = make_small_base("llama")
    with pytest.raises(UserError, match="no rows"):
        exact_match(attach(base, top_lora), base.tokenizer, [], 128, 5, 256)
