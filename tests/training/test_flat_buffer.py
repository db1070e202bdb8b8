"""Gradients of rows in one buffer, against one autograd pass for each row alone and without padding."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from cotune.errors import UserError
from cotune.training.adapter import LoraSettings, attach, parameters_of, schema_of
from cotune.training.base import BaseModel
from cotune.training.flat_buffer import FlatBuffer
from cotune.training.hooks import HookGradients
from cotune.training.layers import decoder_layers
from cotune.training.per_row import GradientsMissingError, RowGradients
from peft import PeftModel
from torch import nn

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2", "bert"]
BLIND = ("bert", "left")  # its pooler reads the first position, whatever stands there
WAYS = {"flat buffer": FlatBuffer, "hooks": HookGradients}
LENGTHS = (9, 5, 7, 9, 4, 6)
Losses = Callable[[Sequence[int]], torch.Tensor]


def row_losses(model: PeftModel, side: str = "right") -> Losses:
    """Losses of six rows of different lengths; rows together are padded on one side, a row alone is not."""
    generator = torch.Generator().manual_seed(4)
    tokens = [torch.randint(3, 64, (length,), generator=generator) for length in LENGTHS]
    classifier = model.config.model_type == "bert"

    def losses(rows: Sequence[int]) -> torch.Tensor:
        longest = max(len(tokens[row]) for row in rows)
        ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.int64)
        for place, row in enumerate(rows):
            length = len(tokens[row])
            where = slice(longest - length, longest) if side == "left" else slice(0, length)
            ids[place, where], mask[place, where] = tokens[row], 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        options = {} if classifier else {"use_cache": False}
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, **options).logits.float()
        if classifier:
            return nn.functional.cross_entropy(logits, torch.tensor([row % 3 for row in rows]), reduction="none")
        predicted = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        real = mask[:, 1:] * mask[:, :-1]
        return (predicted * real).sum(1) / real.sum(1)

    return losses


def alone(model: PeftModel, losses: Losses, rows: int = 6) -> torch.Tensor:
    """Gradients of rows, one autograd pass for each by itself."""
    parameters = list(parameters_of(model).values())
    gradients = [torch.autograd.grad(losses([row])[0], parameters) for row in range(rows)]
    return torch.stack([torch.cat([part.reshape(-1).double() for part in parts]) for parts in gradients])


def differ(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative error of a unit."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def spread(model: PeftModel) -> PeftModel:
    """B starts at zero, which would hide A."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in parameters_of(model).values():
            parameter.normal_(0, 0.3)
    return model


@pytest.fixture
def adapted(tiny: Any, make_base: Callable[..., BaseModel], lora: LoraSettings) -> Callable[..., PeftModel]:
    def make(family: str, rslora: bool = False) -> PeftModel:
        if family == "bert":
            return spread(tiny.classifier())
        return spread(attach(make_base(family), replace(lora, rslora=rslora)))

    return make


@pytest.mark.parametrize(("family", "side"), [(f, s) for f in FAMILIES for s in ("left", "right") if (f, s) != BLIND])
@pytest.mark.parametrize("way", WAYS)
def test_every_family_equals_a_loop(family: str, side: str, way: str, adapted: Callable[..., PeftModel]) -> None:
    model = adapted(family)
    losses, gradients = row_losses(model, side), WAYS[way](model, schema_of(model))
    found, values = gradients.of(lambda: losses(range(6)))
    assert found.dtype == torch.float32
    assert differ(found, alone(model, losses)) < 2e-5
    assert torch.allclose(values, torch.cat([losses([row]) for row in range(6)]), atol=1e-5)
    assert not values.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_a_rank_stabilized_adapter(way: str, adapted: Callable[..., PeftModel]) -> None:
    model, plain = adapted("llama", rslora=True), adapted("llama")
    losses, gradients = row_losses(model), WAYS[way](model, schema_of(model))
    expected = alone(model, losses)
    assert differ(gradients.of(lambda: losses(range(6)))[0], expected) < 2e-5
    assert differ(expected, alone(plain, row_losses(plain))) > 0.1


@pytest.mark.parametrize("way", WAYS)
def test_frozen_first_matrices(way: str, adapted: Callable[..., PeftModel]) -> None:
    """FFA-LoRA trains B alone (Sun et al. 2024)."""
    model = adapted("llama")
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad_(False)
    schema = schema_of(model)
    assert {name.rsplit(".", 2)[1] for name in schema.names} == {"lora_B"}
    losses, gradients = row_losses(model), WAYS[way](model, schema)
    assert differ(gradients.of(lambda: losses(range(6)))[0], alone(model, losses)) < 2e-5


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("way", WAYS)
def test_a_bfloat16_base_under_a_float32_adapter(
    family: str, way: str, tiny: Any, make_base: Callable[..., BaseModel], lora: LoraSettings
) -> None:
    """Against autograd through the same padded batch: without padding, bfloat16 itself rounds differently."""
    base = make_base(family)
    base.model.to(torch.bfloat16)
    model = spread(attach(base, lora))
    assert {parameter.dtype for parameter in parameters_of(model).values()} == {torch.float32}
    losses, gradients = row_losses(model), WAYS[way](model, schema_of(model))
    values = losses(range(6))
    expected = torch.stack(
        [
            torch.cat(
                [
                    part.reshape(-1)
                    for part in torch.autograd.grad(value, list(parameters_of(model).values()), retain_graph=True)
                ]
            )
            for value in values
        ]
    )
    assert differ(gradients.of(lambda: losses(range(6)))[0], expected) < 2e-3


def checkpointed(model: PeftModel, reentrant: bool) -> list[int]:
    """Switch checkpointing on without waking dropout; the list grows by one at each pass through the first layer."""
    base: Any = model.base_model.model
    base.gradient_checkpointing_enable({"use_reentrant": reentrant})
    base.enable_input_require_grads()
    passes: list[int] = []
    layers = decoder_layers(base)
    for layer in layers:
        layer.training = True
    layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    return passes


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("way", "reentrant"), [("flat buffer", True), ("flat buffer", False), ("hooks", True)])
def test_gradient_checkpointing(family: str, way: str, reentrant: bool, adapted: Callable[..., PeftModel]) -> None:
    model = adapted(family)
    losses = row_losses(model)
    expected = alone(model, losses)
    passes = checkpointed(model, reentrant)
    gradients: RowGradients = WAYS[way](model, schema_of(model))
    found, _ = gradients.of(lambda: losses(range(6)))
    assert len(passes) == 2  # computed, and computed again for the backward pass
    assert differ(found, expected) < 2e-5


def test_a_layer_that_is_called_twice(adapted: Callable[..., PeftModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("llama")
    layer: Any = decoder_layers(model.base_model.model)[1].mlp
    once = layer.forward
    monkeypatch.setattr(layer, "forward", lambda states: once(once(states)))
    losses = row_losses(model)
    found, _ = FlatBuffer(model, schema_of(model)).of(lambda: losses(range(6)))
    assert differ(found, alone(model, losses)) < 2e-5


def test_the_buffer_grows_once_and_forgets(adapted: Callable[..., PeftModel]) -> None:
    model = adapted("llama")
    losses, gradients = row_losses(model), FlatBuffer(model, schema_of(model))
    gradients.of(lambda: losses(range(6)))[0].fill_(float("nan"))
    found, _ = gradients.of(lambda: losses([0, 1, 2]))
    assert found.data_ptr() == gradients._buffer.data_ptr()
    assert len(gradients._buffer) == 6
    assert differ(found, alone(model, losses, 3)) < 2e-5
    # Nothing of it is left in the model: another pass is plain.
    assert all("forward" not in vars(module) for module in model.modules())


def test_one_bad_row_leaves_the_others_alone(adapted: Callable[..., PeftModel]) -> None:
    model = adapted("llama")
    losses, gradients = row_losses(model), FlatBuffer(model, schema_of(model))
    factors = torch.tensor([1.0, float("nan"), 1.0, float("inf"), 1.0, 1.0])
    found, _ = gradients.of(lambda: losses(range(6)) * factors)
    good = [0, 2, 4, 5]
    assert differ(found[good], alone(model, losses)[good]) < 2e-5
    assert not found[[1, 3]].isfinite().all(dim=1).any()


@pytest.mark.parametrize("way", WAYS)
def test_a_matrix_without_a_part_is_an_error(way: str, adapted: Callable[..., PeftModel]) -> None:
    model = adapted("llama")
    gradients = WAYS[way](model, schema_of(model))
    layer: Any = decoder_layers(model.base_model.model)[0]

    def partly() -> torch.Tensor:
        return layer.mlp(torch.ones(2, 3, 16)).sum(dim=(1, 2))

    with pytest.raises(GradientsMissingError, match=r"no gradient of each row for .*self_attn"):
        gradients.of(partly)


@pytest.mark.parametrize("way", WAYS)
def test_a_pass_that_fails_leaves_nothing_behind(way: str, adapted: Callable[..., PeftModel]) -> None:
    """In the forward pass, and half way through the backward pass."""
    model = adapted("llama")
    losses, gradients = row_losses(model), WAYS[way](model, schema_of(model))
    expected = gradients.of(lambda: losses(range(6)))[0].clone()

    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, states: torch.Tensor) -> torch.Tensor:
            return states.clone()

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise RuntimeError("out of memory")

    middle: Any = decoder_layers(model.base_model.model)[1]
    for hook in (
        lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")),
        lambda _module, args: (Stop.apply(args[0]), *args[1:]),
    ):
        handle = middle.register_forward_pre_hook(hook)
        with pytest.raises(RuntimeError, match="out of memory"):
            gradients.of(lambda: losses(range(6)))
        handle.remove()
        assert torch.equal(gradients.of(lambda: losses(range(6)))[0], expected)
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_matrix_starts_at_64_bytes(family: str, adapted: Callable[..., PeftModel]) -> None:
    """A product written elsewhere rounds differently, and where a row stands in the buffer must not matter."""
    model = adapted(family)
    gradients = FlatBuffer(model, schema_of(model))
    gradients.of(lambda: row_losses(model)(range(6)))
    for row in gradients._buffer:
        assert all(row[slot.where].data_ptr() % 64 == 0 for slot in gradients._slots)


def test_inputs_without_the_batch_in_front_are_an_error(adapted: Callable[..., PeftModel]) -> None:
    model = adapted("llama")
    gradients = FlatBuffer(model, schema_of(model))
    layer: Any = decoder_layers(model.base_model.model)[0]

    def flattened() -> torch.Tensor:
        return layer.mlp(torch.ones(6, 16)).reshape(2, 3, 16).sum(dim=(1, 2))

    with pytest.raises(GradientsMissingError, match=r"not one for each row"):
        gradients.of(flattened)
    with pytest.raises(GradientsMissingError, match=r"not one for each row"):
        gradients.of(lambda: row_losses(model)([0, 1, 2])[:2])


def test_a_matrix_with_a_bias_is_refused(adapted: Callable[..., PeftModel]) -> None:
    model = adapted("llama")
    schema = schema_of(model)
    layer: Any = decoder_layers(model.base_model.model)[0]
    layer.mlp.up_proj.lora_B["default"].bias = nn.Parameter(torch.zeros(24), requires_grad=False)
    with pytest.raises(UserError, match=r"up_proj.lora_B.weight is not a linear map without a bias"):
        FlatBuffer(model, schema)
