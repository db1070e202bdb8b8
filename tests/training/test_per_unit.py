"""What per-unit gradients refuse, and that the check at start can fail."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cotune.errors import UserError
from cotune.training.adapter import LoraSettings, attach, schema_of
from cotune.training.base import BaseModel
from cotune.training.per_unit import RowGradients, check_against_loop, refuse, unit_means
from peft import LoraConfig, get_peft_model
from torch import nn


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target_modules": ["q_proj"], "use_dora": True}, "DoRA"),
        ({"target_modules": ["embed_tokens"]}, "LoRA on embeddings"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "training of"),
    ],
)
def test_refusals_by_name(tiny: Any, options: dict[str, object], match: str) -> None:
    model = get_peft_model(tiny.model("llama"), LoraConfig(r=2, task_type="CAUSAL_LM", **options)).eval()
    with pytest.raises(UserError, match=match):
        refuse(model)


def test_dropout_and_batch_norm_are_refused(make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    model = attach(make_base("gpt2"), lora)
    refuse(model)
    model.train()
    with pytest.raises(UserError, match="active dropout"):
        refuse(model)
    model.eval()
    model.base_model.model.extra = nn.BatchNorm1d(4).requires_grad_(False)
    with pytest.raises(UserError, match="batch normalization"):
        refuse(model)


def test_the_check_finds_rows_that_mix(make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    model = attach(make_base(), lora)
    gradients = RowGradients(model, schema_of(model))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    tokens = torch.arange(3, 30).reshape(3, 9)

    def separate(rows: Sequence[int]) -> torch.Tensor:
        return model(input_ids=tokens[list(rows)]).logits[:, -1, 5]

    def mixed(rows: Sequence[int]) -> torch.Tensor:
        losses = separate(rows)
        return losses * losses.mean()

    check_against_loop(gradients, separate, 3, "llama", 1e-4)
    with pytest.raises(UserError, match="'llama' do not equal a loop"):
        check_against_loop(gradients, mixed, 3, "llama", 1e-4)


def test_a_matrix_that_is_not_used_is_an_error(make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    model = attach(make_base(), lora)
    gradients = RowGradients(model, schema_of(model))
    first = model.base_model.model.model.layers[0]

    def partly() -> torch.Tensor:
        states = torch.ones(2, 3, 16)
        return first.mlp(states).sum(dim=(1, 2))

    with pytest.raises(RuntimeError, match="no gradient of each row"):
        gradients.of(partly)


def test_unit_means() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    assert torch.equal(unit_means(rows, [2, 1]), torch.tensor([[2.0, 3.0], [5.0, 9.0]]))
    assert torch.equal(unit_means(rows[:, 0], [1, 2]), torch.tensor([1.0, 4.0]))
    assert unit_means(rows, [1, 1, 1]) is rows
