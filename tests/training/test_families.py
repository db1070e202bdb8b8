"""Families that docs/limits.md names as refused are refused in one line, and train where it says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cotune
import numpy as np
import pytest
import torch
from cotune.errors import UserError
from cotune.training import sound
from cotune.training.adapter import LoraSettings
from cotune.training.base import BaseModel
from cotune.training.trainer import Trainer
from transformers import AutoConfig, AutoModelForCausalLM

LIMITS = (Path(cotune.__file__).parent / "docs" / "limits.md").read_text(encoding="utf-8")
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
EXPERTS = {**SMALL, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
MAMBA = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
DECODER = {"vocab_size": 64, "d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 24}
NEVER = {
    "opt": ("OPT", {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16}, "decoder layers are not one list"),
    "bart": ("BART", DECODER, "decoder layers are not one list"),
    "xlstm": (
        "xLSTM",
        {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 4},
        "its head differs",
    ),
    "llama4_text": ("Llama 4", {**EXPERTS, "head_dim": 4, "intermediate_size_mlp": 24}, "no backbone"),
}
# Under all-linear; beside it targets that train.
SOME = {
    "mamba": ("Mamba", MAMBA, "PEFT puts no LoRA", ("in_proj",)),
    "falcon_mamba": ("Falcon Mamba", MAMBA, "PEFT puts no LoRA", ("in_proj",)),
    "ctrl": ("CTRL", {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 4, "dff": 24}, "PEFT puts", ("Wq",)),
    "glm4_moe": (
        "GLM 4",
        {**EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "head_dim": 4, "first_k_dense_replace": 1},
        "LoRA on parameters",
        ("q_proj", "v_proj"),
    ),
    "qwen2_moe": ("Qwen 2 MoE", {**EXPERTS, "shared_expert_intermediate_size": 8}, "loop over its rows", ("q_proj",)),
    "phimoe": ("PhiMoE", EXPERTS, "fails on random rows", ("q_proj",)),
}


def base_of(family: str, shape: dict[str, Any], tiny: Any) -> BaseModel:
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return BaseModel(model.eval().requires_grad_(False), tiny.tokenizer(), family, "tokens", family)


def trained(base: BaseModel, targets: tuple[str, ...], tiny: Any) -> Trainer:
    lora = LoraSettings(rank=2, alpha=4.0, targets=targets, rslora=False, top_layers=0)
    return Trainer(base, lora, tiny.rows(4), tiny.units([2, 2]), 256, None)


@pytest.mark.parametrize("family", NEVER)
def test_families_that_never_train(family: str, tiny: Any) -> None:
    name, shape, said = NEVER[family]
    assert name in LIMITS
    for targets in (("all-linear",), ("q" if family == "xlstm" else "q_proj",)):
        with pytest.raises(UserError, match=f"'{family}'.*{said}") as refused:
            trained(base_of(family, shape, tiny), targets, tiny)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("family", SOME)
def test_families_that_train_in_part(family: str, tiny: Any) -> None:
    name, shape, said, targets = SOME[family]
    assert name in LIMITS
    with pytest.raises(UserError, match=said) as refused:
        trained(base_of(family, shape, tiny), ("all-linear",), tiny)
    assert "\n" not in str(refused.value)
    trainer = trained(base_of(family, shape, tiny), targets, tiny)
    assert np.isfinite(trainer.loss(np.zeros(trainer.schema.dimension, np.float32), range(4)))


@pytest.mark.parametrize("error", [TypeError("no"), ValueError("a\nb"), KeyError("k"), RuntimeError(), IndexError("i")])
def test_whatever_a_model_raises_on_random_rows_names_the_family(
    make_base: Callable[..., BaseModel], monkeypatch: pytest.MonkeyPatch, tiny: Any, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(sound, "check_head", fail)
    with pytest.raises(UserError, match="model family 'llama' fails on random rows") as refused:
        trained(make_base(), ("q_proj",), tiny)
    assert "\n" not in str(refused.value)


def test_too_little_memory_is_nothing_of_the_familys(
    make_base: Callable[..., BaseModel], monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(sound, "check_head", fail)
    with pytest.raises(torch.OutOfMemoryError):
        trained(make_base(), ("q_proj",), tiny)
