"""Gradients of single rows and of privacy units, by Opacus' hooks on the LoRA matrices.

The hooks are silent about some models that they get wrong, so `check_against_loop` compares them with one backward
pass for each row before any budget is spent, and `refuse` names what is known not to work.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from peft import PeftModel
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from .adapter import parameters_of
from .schema import AdapterSchema

_HOOKS = "_cotune_hooks"
# True of the first trained layer, whose inputs are frozen, and harmless there: the hooks want its outputs' gradients.
warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed with respect to")


class RowGradients:
    """Per-row gradients of a PEFT model's LoRA matrices as one buffer."""

    def __init__(self, model: PeftModel, schema: AdapterSchema) -> None:
        refuse(model)
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
        self._buffer = torch.empty(0, schema.dimension, device=model.device)

    def of(self, losses: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of each row's loss.

        Args:
            losses: one forward pass, to the losses [B] of its rows.

        Returns:
            float32 [B, d] in schema order, a view of a buffer that the next call overwrites; and the losses [B],
            detached.

        Raises:
            RuntimeError: a LoRA matrix had no part in the loss.
        """
        # Hooks are live only here: another forward pass with gradients would leave its activations in them.
        self._hooks.enable_hooks()
        try:
            values = losses()
            torch.autograd.backward(values.sum())
        finally:
            self._hooks.disable_hooks()
        rows = len(values)
        if len(self._buffer) < rows:
            self._buffer = torch.empty(rows, self._dimension, device=values.device)
        gradients = self._buffer[:rows]
        for where, (name, parameter) in zip(self._slices, self._parameters.items(), strict=True):
            samples = getattr(parameter, "grad_sample", None)
            if not isinstance(samples, torch.Tensor) or len(samples) != rows:
                raise RuntimeError(f"no gradient of each row for {name}")
            gradients[:, where] = samples.reshape(rows, -1)
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter.grad = None
        return gradients, values.detach()

    def plain(self, loss: torch.Tensor) -> torch.Tensor:
        """The gradient of one loss, float32 [d], by autograd alone: what the hooks are checked against."""
        gradients = torch.autograd.grad(loss, list(self._parameters.values()))
        return torch.cat([gradient.reshape(-1).float() for gradient in gradients])


def unit_means(rows: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Mean over the rows of each unit.

    Args:
        rows: [B, ...], the rows of a unit next to each other.
        sizes: how many rows each of the U units has, 1 or more each, B in all.

    Returns:
        [U, ...]; `rows` itself where every unit has one row.
    """
    if all(size == 1 for size in sizes):
        return rows
    counts = torch.tensor(sizes, device=rows.device)
    owners = torch.repeat_interleave(torch.arange(len(sizes), device=rows.device), counts)
    sums = torch.zeros(len(sizes), *rows.shape[1:], dtype=rows.dtype, device=rows.device).index_add(0, owners, rows)
    return sums / counts.reshape(-1, *[1] * (rows.dim() - 1))


def check_against_loop(
    gradients: RowGradients, losses: Callable[[Sequence[int]], torch.Tensor], rows: int, family: str, tolerance: float
) -> None:
    """Compare the gradients of one batch with one autograd pass for each of its rows alone.

    Args:
        gradients: what is checked.
        losses: from row numbers to their losses, by one forward pass.
        rows: how many rows there are.
        family: the model family, for the refusal.
        tolerance: on the norm of the difference relative to the norm of the reference.

    Raises:
        UserError: they differ.
    """
    batch = gradients.of(lambda: losses(range(rows)))[0].clone()
    for row in range(rows):
        alone = gradients.plain(losses([row]).sum())
        reference = torch.linalg.vector_norm(alone)
        if not (reference > 0 and torch.linalg.vector_norm(batch[row] - alone) <= tolerance * reference):
            raise UserError(
                f"per-unit gradients of model family {family!r} do not equal a loop over its rows",
                "choose a model of another family or other LoRA targets",
            )


def refuse(model: PeftModel) -> None:
    """Refuse, by name, what makes per-row gradients wrong or meaningless.

    Raises:
        UserError: DoRA, LoRA on embeddings, batch normalization, active dropout, or trained parameters that are not
            LoRA matrices.
    """
    for config in model.peft_config.values():
        if getattr(config, "use_dora", False):
            raise _refused("DoRA", "its magnitudes mix the rows of a batch", "switch DoRA off")
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise _refused(f"batch normalization ({name})", "it mixes the rows of a batch", "choose another model")
        if isinstance(module, nn.Dropout) and module.p > 0 and module.training:
            raise _refused(f"active dropout ({name})", "gradients cannot be repeated", "put the model in eval mode")
    for name in parameters_of(model):
        if ".lora_embedding_" in name:
            raise _refused(f"LoRA on embeddings ({name})", "the hooks fail on it", "choose linear targets")
        if ".lora_A." not in name and ".lora_B." not in name:
            raise _refused(f"training of {name}", "only LoRA matrices are", "train LoRA matrices only")


def _refused(what: str, why: str, mend: str) -> UserError:
    return UserError(f"{what} cannot be trained with per-unit gradients, because {why}", mend)
