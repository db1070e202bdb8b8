"""A release that plain PEFT makes another model of is found before anybody has it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cotune.adapter.forms import as_lora
from cotune.adapter.peft_files import CONFIG, WEIGHTS, LoraSettings, export_peft
from cotune.errors import UserError
from cotune.release.proof import require_same_model
from cotune.training.adapter import attach, detach, schema_of
from cotune.training.base import BaseModel
from cotune.training.textless import random_basis
from peft import PeftModel
from safetensors.numpy import load_file, save_file

MakeBase = Callable[[str], BaseModel]


def exported(base: BaseModel, lora: LoraSettings, folder: Path, size: float = 0.3) -> tuple[LoraSettings, np.ndarray]:
    """What was trained, and its release as plain LoRA in the folder."""
    if lora.form != "lora":
        lora = replace(lora, basis=random_basis(base, lora, 3, seed=1))
    schema = schema_of(attach(base, lora))
    adapter = np.random.default_rng(2).normal(0, size, schema.dimension).astype(np.float32)
    plain, names, values = as_lora(lora, schema, adapter)
    export_peft(folder, values, names, plain, "tiny")
    return lora, adapter


@pytest.mark.parametrize("form", ["lora", "ffa", "core"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("size", [0.0, 0.3])
def test_what_was_trained_passes(
    make_small_base: MakeBase, top_lora: LoraSettings, tmp_path: Path, form: str, family: str, size: float
) -> None:
    base = make_small_base(family)
    for dtype in (torch.float32, torch.bfloat16):
        base.model.to(dtype)
        lora, adapter = exported(base, replace(top_lora, form=form, rslora=form == "lora"), tmp_path, size)
        require_same_model(tmp_path, base, lora, adapter)
        assert not isinstance(base.model, PeftModel)
        assert not any("lora" in name for name, _ in base.model.named_parameters())
        detach(base)


def scaled(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] * 1.5}))


def elsewhere(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"layers_to_transform": [0]}))


def renamed(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name.replace("base_model.model.", "other."): each for name, each in tensors.items()}, folder / WEIGHTS)


def unreadable(folder: Path) -> None:
    (folder / CONFIG).write_text("{}")


@pytest.mark.parametrize("fault", [scaled, elsewhere, renamed, unreadable])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_model_is_refused(
    make_small_base: MakeBase,
    top_lora: LoraSettings,
    tmp_path: Path,
    fault: Callable[[Path], None],
    dtype: torch.dtype,
) -> None:
    base = make_small_base("llama")
    base.model.to(dtype)
    lora, adapter = exported(base, top_lora, tmp_path, 1.0)
    fault(tmp_path)
    with pytest.raises(UserError, match="the release is not the model that was trained: ") as refused:
        require_same_model(tmp_path, base, lora, adapter)
    assert "\n" not in str(refused.value)
