"""Tiny random models and a tokenizer of words; labels that begin alike and labels that do not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cotune.data.records import Message, Record
from cotune.training.adapter import LoraSettings
from cotune.training.base import BaseModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

WORDS = tuple(f"w{number}" for number in range(40))
SPECIAL = ("<unk>", "<s>", "</s>", "user", "assistant", "system", "yes", "no", "heart", "lung", "attack", "failure")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
SMALL = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen2": SMALL,
    "gemma3_text": {**SMALL, "head_dim": 4},
    "gpt2": {"vocab_size": SMALL["vocab_size"], "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 128},
}
DISTINCT = ("yes", "no", "heart attack")
ALIKE = ("heart", "heart attack", "heart failure", "heart attack attack", "lung failure", "no")


def small_model(family: str) -> PreTrainedModel:
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, bos_token_id=1, eos_token_id=2, **SHAPES[family])
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def small_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def small_base(family: str = "llama") -> BaseModel:
    return BaseModel(small_model(family), small_tokenizer(), "ab" * 32, "cd" * 32, f"tiny-{family}")


def make_test_rows(
    count: int, labels: tuple[str, ...], groups: tuple[str, ...] = ("north", "south"), seed: int = 5
) -> list[Record]:
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        text = " ".join(draw.choice(WORDS, draw.integers(1, 12)))
        answer = labels[draw.integers(len(labels))]
        group = groups[number % len(groups)]
        rows.append(Record((Message("user", text),), answer, unit=f"unit {number}", label=answer, group=group))
    return rows


@pytest.fixture
def make_small_base() -> Callable[[str], BaseModel]:
    return small_base


@pytest.fixture
def make_rows() -> Callable[..., list[Record]]:
    return make_test_rows


@pytest.fixture
def top_lora() -> LoraSettings:
    return LoraSettings(rank=2, alpha=4.0, targets=("all-linear",), rslora=False, top_layers=1)
