"""What is audited: a language model of two small random layers and rows of random tokens; nothing is downloaded."""

from typing import Any, Final

import numpy as np
import torch

from ..data.template import Example
from ..training.adapter import LoraSettings, attach, schema_of
from ..training.base import BaseModel

VOCABULARY: Final = 1024
LARGEST_RANK: Final = 16
"""Of the adapters that are attacked."""

_HIDDEN = 64


def tiny_base(seed: int) -> BaseModel:
    """A Llama of two layers, 64 wide, with 1024 tokens and random weights, the same for the same seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=_HIDDEN,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # As initialized a model is nearly constant; spread, its layers matter.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.set_rng_state(generator_state)
    tokenizer: Any = None  # rows come as tokens
    return BaseModel(model.eval().requires_grad_(False), tokenizer, f"random {seed}", "none", "a tiny random model")


def lora(rank: int) -> LoraSettings:
    """LoRA on every linear map of every layer."""
    return LoraSettings(rank, 2.0 * rank, ("all-linear",), False, 0)


def coordinates(rank: int) -> int:
    """How many coordinates an adapter of this rank has."""
    return schema_of(attach(tiny_base(0), lora(rank))).dimension


def random_rows(count: int, prompt: int, answer: int, generator: np.random.Generator) -> list[Example]:
    """Rows of so many prompt and answer tokens, all drawn evenly: an answer is unique but for chance."""
    tokens = generator.integers(1, VOCABULARY, (count, prompt + answer), dtype=np.int32)
    return [Example(row, prompt, f"unit {number}", "") for number, row in enumerate(tokens)]
