"""Gradients of rows by Opacus' hooks: the reference for `flat_buffer`, and the path for what it cannot do.

The hooks keep a gradient of each row at each parameter, so they take twice the memory of the buffer, and they are
silent about some models that they get wrong: `refusals` and `per_row.equals_loop` stand before them too.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from peft import PeftModel

from ..adapter.schema import AdapterSchema
from .adapter import parameters_of
from .per_row import GradientsMissingError, aligned, plain_gradient
from .refusals import refuse, refuse_under_hooks

_HOOKS = "_cotune_hooks"
# True of the first trained layer, whose inputs are frozen, and harmless there: the hooks want its outputs' gradients.
warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed with respect to")


class HookGradients:
    """Gradients of rows over a PEFT model's LoRA matrices."""

    name = "hooks"

    def __init__(self, model: PeftModel, schema: AdapterSchema) -> None:
        """
        Raises:
            UserError: the model cannot be trained privately, by name.
        """
        refuse(model)
        refuse_under_hooks(model)
        # Hooks cannot be put on a model twice: several trainers of one process share them.
        hooks = getattr(model, _HOOKS, None)
        if hooks is None:
            hooks = GradSampleModule(model, batch_first=True, loss_reduction="sum", strict=True)
            object.__setattr__(model, _HOOKS, hooks)
        self._hooks: Any = hooks
        self._hooks.disable_hooks()
        self._parameters = parameters_of(model)
        self._slices = schema.slices
        self._dimension = schema.dimension
        self._device: torch.device = model.device

    def of(self, losses: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """See `per_row.RowGradients.of`."""
        # Hooks are live only here: another forward pass with gradients would leave its activations in them.
        self._hooks.enable_hooks()
        try:
            values = losses()
            torch.autograd.backward(values.sum())
            return self._collected(len(values)), values.detach()
        except ValueError as error:  # Opacus: no activations seen
            raise GradientsMissingError(str(error)) from None
        finally:
            self._hooks.disable_hooks()
            self._forget()

    def _collected(self, rows: int) -> torch.Tensor:
        gradients = aligned(rows, self._dimension, self._device)
        for where, (name, parameter) in zip(self._slices, self._parameters.items(), strict=True):
            samples = getattr(parameter, "grad_sample", None)
            if not isinstance(samples, torch.Tensor) or len(samples) != rows:
                raise GradientsMissingError(f"no gradient of each row for {name}")
            gradients[:, where] = samples.reshape(rows, -1)
        return gradients

    def _forget(self) -> None:
        """What a pass that failed half way leaves in the hooks would count in the next one."""
        for module in self._hooks.modules():
            for name in ("activations", "max_batch_len"):
                vars(module).pop(name, None)
        for parameter in self._parameters.values():
            parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
            vars(parameter).pop("_current_grad_sample", None)
            parameter._forward_counter = 0  # type: ignore[attr-defined]

    def plain(self, loss: torch.Tensor) -> torch.Tensor:
        """See `per_row.RowGradients.plain`."""
        return plain_gradient(loss, self._parameters)
