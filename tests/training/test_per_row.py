"""That the check of row gradients at start can fail."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cotune.training.adapter import LoraSettings, attach, schema_of
from cotune.training.base import BaseModel
from cotune.training.flat_buffer import FlatBuffer
from cotune.training.hooks import HookGradients
from cotune.training.per_row import RowGradients, aligned, equals_loop

TOKENS = torch.arange(3, 30).reshape(3, 9)
Losses = Callable[[Sequence[int]], torch.Tensor]


@pytest.fixture(params=[FlatBuffer, HookGradients], ids=["flat buffer", "hooks"])
def both(request: Any, make_base: Callable[..., BaseModel], lora: LoraSettings) -> tuple[Any, RowGradients]:
    model = attach(make_base(), lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    return model, request.param(model, schema_of(model))


def passes(gradients: RowGradients, losses: Losses, rows: int = 3) -> bool:
    return equals_loop(gradients, lambda: losses(range(rows)), lambda row: losses([row]).sum(), rows, 1e-4)


def test_the_check_finds_rows_that_mix(both: tuple[Any, RowGradients]) -> None:
    model, gradients = both

    def separate(rows: Sequence[int]) -> torch.Tensor:
        return model(input_ids=TOKENS[list(rows)]).logits[:, -1, 5]

    def mixed(rows: Sequence[int]) -> torch.Tensor:
        losses = separate(rows)
        return losses * losses.mean()

    assert passes(gradients, separate)
    assert not passes(gradients, mixed)


def test_the_check_finds_rows_that_are_off_by_one(
    both: tuple[Any, RowGradients], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, gradients = both

    def separate(rows: Sequence[int]) -> torch.Tensor:
        return model(input_ids=TOKENS[list(rows)]).logits[:, -1, 5]

    right = gradients.of

    def shifted(losses: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        found, values = right(losses)
        return found.roll(1, 0), values

    monkeypatch.setattr(gradients, "of", shifted)
    assert not passes(gradients, separate)


def test_the_check_finds_a_matrix_without_a_part(both: tuple[Any, RowGradients]) -> None:
    model, gradients = both
    layer = model.base_model.model.model.layers[0]

    def partly(rows: Sequence[int]) -> torch.Tensor:
        return layer.mlp(torch.ones(len(rows), 3, 16)).sum(dim=(1, 2))

    assert not passes(gradients, partly, 2)


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 700])
def test_rows_start_at_64_bytes(columns: int) -> None:
    buffer = aligned(5, columns, torch.device("cpu"))
    assert buffer.shape == (5, columns)
    assert not buffer.any()
    assert all(row.data_ptr() % 64 == 0 for row in buffer)
