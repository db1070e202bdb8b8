"""Gradients of privacy units by Opacus' hooks: the reference for `flat_buffer`, and the path for what it cannot do.

The hooks keep a gradient of each row at each parameter, so they take twice the memory of the buffer, and they are
silent about some models that they get wrong: `refusals` and `per_unit.check_against_loop` stand before them too.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from peft import PeftModel

from .adapter import parameters_of
from .per_unit import GradientsMissingError, plain_gradient, unit_sums, weighted_sum
from .refusals import refuse, refuse_under_hooks
from .schema import AdapterSchema

_HOOKS = "_cotune_hooks"
# True of the first trained layer, whose inputs are frozen, and harmless there: the hooks want its outputs' gradients.
warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed with respect to")


class HookGradients:
    """Mean gradients of units over a PEFT model's LoRA matrices."""

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

    def of(
        self, losses: Callable[[], torch.Tensor], sizes: Sequence[int], whole: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `per_unit.UnitGradients.of`."""
        # Hooks are live only here: another forward pass with gradients would leave its activations in them.
        self._hooks.enable_hooks()
        try:
            values = losses()
            torch.autograd.backward(weighted_sum(values, sizes, whole))
        except ValueError as error:  # Opacus: no activations seen
            raise GradientsMissingError(str(error)) from None
        finally:
            self._hooks.disable_hooks()
        gradients = torch.empty(len(sizes), self._dimension, device=self._device)
        for where, (name, parameter) in zip(self._slices, self._parameters.items(), strict=True):
            samples = getattr(parameter, "grad_sample", None)
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter.grad = None
            if not isinstance(samples, torch.Tensor) or len(samples) != len(values):
                raise GradientsMissingError(f"no gradient of each row for {name}")
            gradients[:, where] = unit_sums(samples.reshape(len(values), -1), sizes)
        return gradients, values.detach()

    def plain(self, loss: torch.Tensor) -> torch.Tensor:
        """See `per_unit.UnitGradients.plain`."""
        return plain_gradient(loss, self._parameters)
