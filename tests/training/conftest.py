"""Tiny random models, a tokenizer of a few words, and rows: nothing here is downloaded."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cotune.data.template import Example
from cotune.data.units import Units
from cotune.privacy.terms import PrivacyTerms
from cotune.training.adapter import LoraSettings
from cotune.training.base import BaseModel
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

TEMPLATE = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
VOCABULARY = 64
UNKNOWN, END = "<unk>", "</s>"
_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_SHAPES: dict[str, dict[str, Any]] = {
    "llama": _SMALL,
    "mistral": _SMALL,
    "qwen2": _SMALL,
    "qwen3": {**_SMALL, "head_dim": 4},
    "gemma": {**_SMALL, "head_dim": 4},
    "gemma2": {**_SMALL, "head_dim": 4},
    "gemma3_text": {**_SMALL, "head_dim": 4},
    "granite": {**_SMALL, "logits_scaling": 4.0},
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "gpt_neox": {k: v for k, v in _SMALL.items() if k != "num_key_value_heads"},
    "phi3": {**_SMALL, "pad_token_id": 0},
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    "ctrl": {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "dff": 24, "n_positions": 64},
    "bert": {k: v for k, v in _SMALL.items() if k != "num_key_value_heads"},
}


def tiny_model(family: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, bos_token_id=1, eos_token_id=2, **{**_SHAPES[family], **changes})
    return _spread(AutoModelForCausalLM.from_config(config))


def tiny_classifier() -> PeftModel:
    """BERT with three classes and LoRA on every linear map, the pooler's among them, which sees one position."""
    torch.manual_seed(7)
    config = AutoConfig.for_model("bert", num_labels=3, **_SHAPES["bert"])
    model = _spread(AutoModelForSequenceClassification.from_config(config))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["query", "value", "dense"])).eval()
    for name, module in adapted.named_modules():
        if ".lora_A." in name or ".lora_B." in name:
            module.train()  # as `attach` does, for the hooks
    return adapted


def _spread(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        # Models start nearly constant; spread the weights so that a wrong path shows.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def tiny_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    words = {UNKNOWN: 0, "<s>": 1, END: 2, **{f"word{number}": number for number in range(3, VOCABULARY)}}
    backend = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=UNKNOWN, eos_token=END)
    tokenizer.chat_template = template
    return tokenizer


def tiny_rows(count: int, seed: int = 3, shortest: int = 4, longest: int = 14) -> list[Example]:
    generator = np.random.default_rng(seed)
    rows = []
    for length in generator.integers(shortest, longest, count):
        tokens = generator.integers(3, VOCABULARY, length, dtype=np.int32)
        rows.append(Example(tokens, int(length - generator.integers(1, 4)), "", ""))
    return rows


def tiny_units(sizes: list[int]) -> Units:
    """Units of these many rows, their rows scattered over the data set."""
    order = np.random.default_rng(5).permutation(sum(sizes)).tolist()
    ends = np.cumsum([0, *sizes]).tolist()
    rows = tuple(tuple(order[start:end]) for start, end in pairwise(ends))
    return Units(tuple(f"unit {number}" for number in range(len(sizes))), rows)


class Tiny:
    """The makers above, as a fixture: test modules do not import each other."""

    model = staticmethod(tiny_model)
    classifier = staticmethod(tiny_classifier)
    tokenizer = staticmethod(tiny_tokenizer)
    rows = staticmethod(tiny_rows)
    units = staticmethod(tiny_units)
    template = TEMPLATE


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture
def make_base() -> Callable[..., BaseModel]:
    def make(family: str = "llama", **changes: Any) -> BaseModel:
        return BaseModel(tiny_model(family, **changes), tiny_tokenizer(), f"digest of {family}", "tokens", family)

    return make


@pytest.fixture
def lora() -> LoraSettings:
    return LoraSettings(rank=2, alpha=4.0, targets=("all-linear",), rslora=False, top_layers=0)


@pytest.fixture
def terms() -> PrivacyTerms:
    return PrivacyTerms(
        enabled=True,
        unit="patient",
        epsilon=8.0,
        delta=1e-5,
        noise_multiplier=1.0,
        max_grad_norm=0.5,
        sample_rate=0.5,
        records_per_unit=3,
        loss_cap=10.0,
        metrics_weight=0.1,
    )


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
