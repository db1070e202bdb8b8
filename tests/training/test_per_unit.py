"""Means over units, and that the check at start can fail."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cotune.errors import UserError
from cotune.training.adapter import LoraSettings, attach, schema_of
from cotune.training.base import BaseModel
from cotune.training.flat_buffer import FlatBuffer
from cotune.training.hooks import HookGradients
from cotune.training.per_unit import UnitGradients, check_against_loop, unit_sums, weighted_sum

TOKENS = torch.arange(3, 30).reshape(3, 9)


@pytest.fixture(params=[FlatBuffer, HookGradients], ids=["flat buffer", "hooks"])
def both(request: Any, make_base: Callable[..., BaseModel], lora: LoraSettings) -> tuple[Any, UnitGradients]:
    model = attach(make_base(), lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    return model, request.param(model, schema_of(model))


def test_the_check_finds_rows_that_mix(both: tuple[Any, UnitGradients]) -> None:
    model, gradients = both

    def separate(rows: Sequence[int]) -> torch.Tensor:
        return model(input_ids=TOKENS[list(rows)]).logits[:, -1, 5]

    def mixed(rows: Sequence[int]) -> torch.Tensor:
        losses = separate(rows)
        return losses * losses.mean()

    check_against_loop(gradients, separate, 3, "llama", 1e-4)
    with pytest.raises(UserError, match="'llama' do not equal a loop") as caught:
        check_against_loop(gradients, mixed, 3, "llama", 1e-4)
    assert "\n" not in str(caught.value)


def test_the_check_finds_units_that_are_off_by_one(
    both: tuple[Any, UnitGradients], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, gradients = both

    def separate(rows: Sequence[int]) -> torch.Tensor:
        return model(input_ids=TOKENS[list(rows)]).logits[:, -1, 5]

    right = gradients.of
    monkeypatch.setattr(
        gradients, "of", lambda losses, sizes: right(losses, sizes if len(sizes) == 3 else sorted(sizes)[::-1])
    )
    with pytest.raises(UserError, match="do not equal a loop"):
        check_against_loop(gradients, separate, 3, "llama", 1e-4)


def test_the_check_refuses_a_matrix_without_a_part(both: tuple[Any, UnitGradients]) -> None:
    model, gradients = both
    layer = model.base_model.model.model.layers[0]

    def partly(rows: Sequence[int]) -> torch.Tensor:
        return layer.mlp(torch.ones(len(rows), 3, 16)).sum(dim=(1, 2))

    gradients.plain = lambda loss: loss.new_ones(5)  # type: ignore[method-assign]  # autograd itself refuses
    with pytest.raises(UserError, match="no gradient of each row for"):
        check_against_loop(gradients, partly, 2, "llama", 1e-4)


def test_unit_sums() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    assert torch.equal(unit_sums(rows, [2, 1]), torch.tensor([[4.0, 6.0], [5.0, 9.0]]))
    assert torch.equal(unit_sums(rows[:, 0], [1, 2]), torch.tensor([1.0, 8.0]))
    assert unit_sums(rows, [1, 1, 1]) is rows
    with pytest.raises(ValueError, match="units of 4 rows, but 3 rows"):
        unit_sums(rows, [2, 2])


def test_weights_make_means() -> None:
    values = torch.tensor([3.0, 5.0, 7.0])
    assert weighted_sum(values, [1, 2], None) == 3 + 5 / 2 + 7 / 2
    assert weighted_sum(values, [1, 2], [1, 4]) == 3 + 5 / 4 + 7 / 4
    assert weighted_sum(values, [1, 1, 1], None) == 15
