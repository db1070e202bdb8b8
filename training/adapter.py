"""LoRA on a base model: attach it, read and write it as one flat vector."""

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..adapter.basis import Directions
from ..adapter.forms import require_basis
from ..adapter.peft_files import LoraSettings, export_peft, import_peft
from ..adapter.schema import AdapterSchema, initial
from ..errors import UserError, first_line
from .base import BaseModel
from .layers import decoder_layers

__all__ = [
    "AdapterSchema",
    "LoraSettings",
    "attach",
    "detach",
    "export_peft",
    "get_flat",
    "import_peft",
    "initial",
    "parameters_of",
    "schema_of",
    "set_flat",
    "untouched",
]

_ATTACHED = "_cotune_attached"
_ALL: Final = ("all-linear",)


def attach(base: BaseModel, lora: LoraSettings) -> PeftModel:
    """Put trainable LoRA matrices, float32, into a frozen base model, in place.

    Returns:
        The PEFT model in evaluation mode, so that no dropout of the base is ever active; only the LoRA matrices are in
        train mode, which per-unit gradients need. The same object again when the same settings are attached again.

    Raises:
        UserError: the base has fewer layers than `top_layers`, lacks a target, has one that PEFT puts no LoRA into,
            already carries another adapter, or the basis does not fit it.
    """
    earlier = getattr(base.model, _ATTACHED, None)
    if earlier is not None:
        settings, attached = earlier
        if settings != lora:
            raise UserError(f"{base.name} already carries another adapter", "load the base model again")
        return attached
    layers = decoder_layers(base.model)
    if lora.top_layers > len(layers):
        raise UserError(f"model.top_layers is {lora.top_layers}", f"{base.name} has {len(layers)} layers: choose fewer")
    chosen = list(range(len(layers) - lora.top_layers, len(layers))) if lora.top_layers else None
    linear = _targets(base, layers, _ALL)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=_targets(base, layers, lora.targets),
        layers_to_transform=chosen,
        use_rslora=lora.rslora,
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in layers.modules()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between versions of PEFT and transformers
        try:
            model = get_peft_model(base.model, config)
        except (ValueError, TypeError, NotImplementedError) as error:  # by which PEFT refuses families and modules
            family = base.model.config.model_type
            raise UserError(
                f"PEFT puts no LoRA into all these maps of {base.name}, family {family!r} ({first_line(error, 100)})",
                f"set model.lora.targets to some of its linear maps: {', '.join(linear)}",
            ) from error
    if lora.form != "lora":
        _freeze(model, lora)
    setattr(base.model, _ATTACHED, (lora, model))
    model.eval()
    for name, module in model.named_modules():
        if ".lora_A." in name or ".lora_B." in name:
            module.train()
    return model


def detach(base: BaseModel) -> None:
    """Take an adapter off again, in place: the base model is what it was."""
    earlier = getattr(base.model, _ATTACHED, None)
    if earlier is not None:
        earlier[1].unload()
        delattr(base.model, _ATTACHED)


def adapted_maps(base: BaseModel, lora: LoraSettings) -> dict[str, nn.Module]:
    """The linear maps that an adapter goes to, by their paths, before one is attached.

    Raises:
        UserError: the base has fewer layers than `top_layers`, or lacks a target.
    """
    layers = decoder_layers(base.model)
    targets = _targets(base, layers, lora.targets)
    top = {id(layer) for layer in (list(layers)[-lora.top_layers :] if lora.top_layers else layers)}
    inside = {
        id(module)
        for layer in layers
        if id(layer) in top
        for name, module in layer.named_modules()
        if name.rsplit(".", 1)[-1] in targets and _is_linear(module)
    }
    return {path: module for path, module in base.model.named_modules() if id(module) in inside}


class Core(nn.Module):
    """R V in the place of LoRA's A: V frozen, R trained.

    Attributes:
        inputs: V [v, in]. core: R [u, v], with the start that was given beside it.
    """

    def __init__(self, given: Directions) -> None:
        super().__init__()
        self.inputs = nn.Linear(given.inputs.shape[1], len(given.inputs), bias=False)
        core = nn.Linear(len(given.inputs), require_outputs(given).shape[1], bias=False)
        _fill(self.inputs, given.inputs)
        nn.init.zeros_(core.weight)
        self.core = _begun(core, given)

    @property
    def weight(self) -> torch.Tensor:
        """PEFT asks it for its dtype."""
        return self.inputs.weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., u]."""
        return self.core(self.inputs(states))  # type: ignore[no-any-return]


class Begun(nn.Module):
    """A trained linear map and a frozen one that is added to it.

    Attributes:
        trained, start: of the same shape.
    """

    def __init__(self, trained: nn.Linear, start: NDArray[np.float32]) -> None:
        super().__init__()
        self.trained = trained
        self.start = nn.Linear(trained.in_features, trained.out_features, bias=False).to(trained.weight.device)
        _fill(self.start, start)

    @property
    def weight(self) -> torch.Tensor:
        """PEFT asks it for its dtype."""
        return self.trained.weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        return self.trained(states) + self.start(states)  # type: ignore[no-any-return]


def _begun(linear: nn.Linear, given: Directions) -> nn.Module:
    """The map, from the start that was given with the directions, if there is one.

    Raises:
        UserError: it has another shape.
    """
    if given.start is None:
        return linear
    if given.start.shape != tuple(linear.weight.shape):
        raise UserError(
            f"the basis begins with {given.start.shape} numbers in place of {tuple(linear.weight.shape)}",
            "make it for this model and these targets",
        )
    return Begun(linear, given.start)


def require_outputs(given: Directions) -> NDArray[np.float32]:
    """U of a map.

    Raises:
        UserError: it has none.
    """
    if given.outputs is None:
        raise UserError("form core needs directions of outputs", "make the basis for it, or choose form ffa")
    return given.outputs


def _freeze(model: PeftModel, lora: LoraSettings) -> None:
    """Put the given directions into the adapted maps; what is left to train is B, or the core."""
    basis, seen = require_basis(lora), set()
    for path, module in model.get_base_model().named_modules():
        if not hasattr(module, "lora_A"):
            continue
        given = basis.modules.get(path)
        if given is None:
            raise UserError(f"the basis has no directions for {path}", "make it for this model and these targets")
        outs, ins = module.lora_B["default"].weight.shape[0], module.lora_A["default"].weight.shape[1]
        if given.inputs.shape[1] != ins or (given.outputs is not None and len(given.outputs) != outs):
            raise UserError(f"the basis does not fit {path}", "make it for this model and these targets")
        seen.add(path)
        device = module.lora_A["default"].weight.device
        if lora.form == "core":
            core = Core(given)
            module.lora_A["default"] = core.to(device)
            module.lora_B["default"] = nn.Linear(require_outputs(given).shape[1], outs, bias=False).to(device)
            _fill(module.lora_B["default"], require_outputs(given))
        else:
            if len(given.inputs) != lora.rank:
                raise UserError(
                    f"the basis has {len(given.inputs)} directions", f"set model.lora.rank={len(given.inputs)}"
                )
            _fill(module.lora_A["default"], given.inputs)
            module.lora_B["default"] = _begun(module.lora_B["default"], given)
    if unknown := sorted(set(basis.modules) - seen):
        raise UserError(f"the basis has directions for {unknown[0]}, which is not trained", "make it for these targets")


def _fill(linear: nn.Linear, matrix: NDArray[np.float32]) -> None:
    """Give a linear map these weights for good."""
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.array(matrix)))
    linear.weight.requires_grad_(False)


def _targets(base: BaseModel, layers: nn.ModuleList, targets: tuple[str, ...]) -> list[str]:
    """Last components of the targets' names: PEFT's own "all-linear" cannot be combined with a choice of layers."""
    linear = {name.rsplit(".", 1)[-1] for name, module in layers.named_modules() if _is_linear(module)}
    if targets == _ALL:
        return sorted(linear)
    missing = sorted(set(targets) - linear)
    if missing:
        raise UserError(f"{base.name} has no linear map {missing[0]!r}", f"choose from {', '.join(sorted(linear))}")
    return sorted(targets)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def parameters_of(model: PeftModel) -> dict[str, nn.Parameter]:
    """The trainable parameters by their schema names, in the model's order."""
    trainable = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {
        name.replace(".trained.weight", ".weight")
        .replace(".lora_A.default.core.", ".lora_R.")
        .replace(".default.", "."): parameter
        for name, parameter in trainable
    }


def schema_of(model: PeftModel) -> AdapterSchema:
    """Names and shapes of what is trained.

    Raises:
        UserError: something other than LoRA matrices is trainable.
    """
    parameters = parameters_of(model)
    return AdapterSchema(tuple(parameters), tuple(tuple(parameter.shape) for parameter in parameters.values()))


def untouched(model: PeftModel) -> NDArray[np.float32]:
    """The adapter at which the model is the base model, float32 [d]: zero, less the start where the basis has one."""
    starts = {id(module.trained.weight): module.start.weight for module in model.modules() if isinstance(module, Begun)}
    trained = parameters_of(model).values()
    return _flat([-starts[id(one)] if id(one) in starts else torch.zeros_like(one) for one in trained])


def get_flat(model: PeftModel) -> NDArray[np.float32]:
    """The adapter as float32 [d], a copy."""
    return _flat(list(parameters_of(model).values()))


def _flat(parts: Sequence[torch.Tensor]) -> NDArray[np.float32]:
    """One after the other, a copy."""
    flat = torch.cat([part.detach().reshape(-1).float() for part in parts])
    return np.array(flat.cpu().numpy(), dtype=np.float32)


def set_flat(model: PeftModel, adapter: NDArray[np.float32]) -> None:
    """Overwrite the adapter by float32 [d].

    Raises:
        ValueError: the vector is not float32 [d].
    """
    views: dict[str, NDArray[Any]] = dict(schema_of(model).split(adapter))
    with torch.no_grad():
        for name, parameter in parameters_of(model).items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(views[name])))
