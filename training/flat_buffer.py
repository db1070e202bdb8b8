"""Gradients of rows in one buffer, written there by LoRA's own linear maps as autograd reaches them.

For a map y = W x over the positions of a row, the row's gradient of W is the sum of g x^T over them, g being the
gradient of y. Autograd adds it over all rows of a batch as well; here one batched product for each map writes every
row's own into its slice of a (rows, d) buffer, and the sum over all rows is never made. With a rank far below the
number of positions this costs less than norms by the ghost trick (Li et al. 2022, section 4), and no parameter carries
a copy of its gradients, as it does under Opacus' hooks.

Exact for linear maps without a bias whose inputs have the batch as their first dimension, however often one is called
in a forward pass and under either form of gradient checkpointing. Everything else is refused before it counts:
`refusals` by name, `per_row.equals_loop` by its result.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn.functional import linear

from ..adapter.schema import AdapterSchema
from ..errors import UserError
from .adapter import parameters_of
from .per_row import GradientsMissingError, aligned, padded, plain_gradient
from .refusals import refuse


class FlatBuffer:
    """Gradients of rows over a PEFT model's LoRA matrices. Nothing stays in the model between calls.

    Small products round differently where their result is not aligned in memory, so in the buffer each matrix starts at
    a multiple of 64 bytes.
    """

    name = "flat buffer"

    def __init__(self, model: PeftModel, schema: AdapterSchema) -> None:
        """
        Raises:
            UserError: the model cannot be trained privately, by name, or a trained matrix is not a plain linear map.
        """
        refuse(model)
        self._parameters = parameters_of(model)
        self._device: torch.device = model.device
        owners = {id(module.weight): module for module in model.modules() if type(module) is nn.Linear}
        self._slots: list[_Slot] = []
        start = 0
        columns: list[torch.Tensor] = []
        for name, parameter in self._parameters.items():
            module = owners.get(id(parameter))
            if module is None or module.bias is not None:
                raise UserError(f"{name} is not a linear map without a bias", "choose linear LoRA targets")
            self._slots.append(_Slot(name, module, slice(start, start + parameter.numel())))
            columns.append(torch.arange(start, start + parameter.numel()))
            start += padded(parameter.numel())
        self._width = start
        # None where no matrix leaves a gap before the next one.
        self._columns = None if padded(schema.dimension) == start else torch.cat(columns).to(self._device)
        self._dimension = schema.dimension
        self._buffer = aligned(0, start, self._device)

    def of(self, losses: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """See `per_row.RowGradients.of`."""
        batch = _Batch()
        with _recording(self._slots, batch):
            values = losses()
            batch.buffer = self._rows(len(values))
            torch.autograd.backward(values.sum())
        missing = [slot.name for slot in self._slots if slot.name not in batch.written]
        if missing:
            raise GradientsMissingError(f"no gradient of each row for {missing[0]}")
        return self._without_gaps(batch.buffer), values.detach()

    def plain(self, loss: torch.Tensor) -> torch.Tensor:
        """See `per_row.RowGradients.plain`."""
        return plain_gradient(loss, self._parameters)

    def _rows(self, rows: int) -> torch.Tensor:
        """Float32 [rows, width]; what an earlier batch left there is overwritten."""
        if len(self._buffer) < rows:
            self._buffer = self._buffer.new_empty(0)  # the old one must be free before the new one is taken
            self._buffer = aligned(rows, self._width, self._device)
        return self._buffer[:rows]

    def _without_gaps(self, buffer: torch.Tensor) -> torch.Tensor:
        """[rows, width] in schema order: [rows, d]."""
        if self._columns is None:
            return buffer[:, : self._dimension]
        packed = aligned(len(buffer), self._dimension, self._device)
        return packed.copy_(buffer[:, self._columns])


class _Batch:
    """The rows of one backward pass and where their gradients go.

    Attributes:
        buffer: float32 [rows, width]; known once the forward pass is done.
        written: names of the matrices whose slice holds gradients of this batch.
    """

    buffer: torch.Tensor

    def __init__(self) -> None:
        self.written: set[str] = set()


class _Slot:
    """One trained matrix: its map, and its slice of a gradient."""

    def __init__(self, name: str, module: nn.Linear, where: slice) -> None:
        self.name = name
        self.module = module
        self.where = where

    def add(self, batch: _Batch, inputs: torch.Tensor, gradients: torch.Tensor) -> None:
        """Add every row's sum over positions of gradient times input.

        Args:
            batch: where to.
            inputs: [B, ..., in] of the map.
            gradients: [B, ..., out] of its outputs.
        """
        rows = len(batch.buffer)
        if inputs.dim() < 2 or len(inputs) != rows:
            raise GradientsMissingError(f"the inputs of {self.name} are {tuple(inputs.shape)}, not one for each row")
        outs, ins = self.module.weight.shape
        left = gradients.reshape(rows, -1, outs).float()
        right = inputs.reshape(rows, -1, ins).float()
        view = batch.buffer[:, self.where].view(-1, outs, ins)
        first = self.name not in batch.written
        batch.written.add(self.name)
        if first and outs <= ins:
            torch.bmm(left.transpose(1, 2), right, out=view)
        else:
            samples = _products(left, right)
            view.copy_(samples) if first else view.add_(samples)


def _products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Sums over positions of left times right: [B, out, in] of [B, T, out] and [B, T, in].

    Matrix products with few columns are slow on a CPU: the transposed one takes two thirds of the time, copy included.
    """
    if left.shape[2] > right.shape[2]:
        return torch.bmm(right.transpose(1, 2), left).transpose(1, 2)
    return torch.bmm(left.transpose(1, 2), right)


class _EachRow(torch.autograd.Function):
    """A linear map whose weight gradient goes to a buffer, row by row, instead of to the weight."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, slot: _Slot, batch: _Batch) -> torch.Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.slot, ctx.batch = slot, batch
        return linear(inputs, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        inputs, weight = ctx.saved_tensors
        ctx.slot.add(ctx.batch, inputs, gradients[0])
        return gradients[0] @ weight if ctx.needs_input_grad[0] else None, None, None, None


@contextmanager
def _recording(slots: Sequence[_Slot], batch: _Batch) -> Iterator[None]:
    """Within it, the maps of `slots` write to `batch`; other passes through the model see plain linear maps."""
    for slot in slots:
        slot.module.forward = partial(_forward, slot, batch)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for slot in slots:
            del slot.module.forward


def _forward(slot: _Slot, batch: _Batch, inputs: torch.Tensor) -> torch.Tensor:
    outputs: torch.Tensor = _EachRow.apply(inputs, slot.module.weight, slot, batch)  # type: ignore[no-untyped-call]
    return outputs
