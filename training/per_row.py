"""Gradients of single rows: what every way to compute them promises, and the check that one keeps the promise.

Two ways exist: `flat_buffer` (the default) and `hooks`. Both can be wrong for a model without an error, so
`equals_loop` compares them with one backward pass for each row before any budget is spent.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import nn

_ALIGNED = 16  # float32 numbers: 64 bytes


class GradientsMissingError(RuntimeError):
    """A trained matrix had no part in the loss, or not one input for each row."""


class RowGradients(Protocol):
    """A way to compute gradients of rows over d trained coordinates.

    Attributes:
        name: what it is called in reports.
    """

    @property
    def name(self) -> str: ...

    def of(self, losses: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the rows of one tile.

        Args:
            losses: one forward pass, to the losses [B] of its rows.

        Returns:
            float32 [B, d] in schema order, which the next call may overwrite; and the losses [B], detached.

        Guarantees:
            A call that fails leaves nothing behind that a later one could see.

        Raises:
            GradientsMissingError: a LoRA matrix had no part in the loss.
        """
        ...

    def plain(self, loss: torch.Tensor) -> torch.Tensor:
        """The gradient of one loss, float32 [d], by autograd alone: the slow reference."""
        ...


def aligned(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Zeros, float32 [rows, columns]; each row starts at a multiple of 64 bytes, so that all are computed alike."""
    return torch.zeros(rows, padded(columns), device=device)[:, :columns]


def padded(columns: int) -> int:
    """The next number of float32 numbers that fills multiples of 64 bytes."""
    return -(-columns // _ALIGNED) * _ALIGNED


def plain_gradient(loss: torch.Tensor, parameters: Mapping[str, nn.Parameter]) -> torch.Tensor:
    """The gradient of one loss, float32 [d], by autograd alone; zero where a matrix has no part in it."""
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.reshape(-1).float() for gradient in gradients])


def equals_loop(
    gradients: RowGradients,
    losses: Callable[[], torch.Tensor],
    alone: Callable[[int], torch.Tensor],
    rows: int,
    tolerance: float,
) -> bool:
    """Whether the gradients of a tile's rows are those of one autograd pass for each of them alone.

    Args:
        gradients: what is checked.
        losses: one forward pass to the losses [B] of a tile.
        alone: the loss [] of one of its rows, by a pass of its own.
        rows: how many of them, from the first on, are compared.
        tolerance: on the norm of the difference relative to the norm of the reference.

    Edge cases: False where a trained matrix has no part in the loss.
    """
    references = [gradients.plain(alone(row)) for row in range(rows)]
    try:
        found, _ = gradients.of(losses)
    except GradientsMissingError:
        return False
    for row, reference in enumerate(references):
        length = torch.linalg.vector_norm(reference)
        if not (length > 0 and torch.linalg.vector_norm(found[row] - reference) <= tolerance * length):
            return False
    return True
