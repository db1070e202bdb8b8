"""Mean gradients of privacy units: what every way to compute them promises, and the check that one keeps the promise.

Two ways exist: `flat_buffer` (the default) and `hooks`. Both can be wrong for a model without an error, so
`check_against_loop` compares them with one backward pass for each unit before any budget is spent.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import nn

from ..errors import UserError


class GradientsMissingError(RuntimeError):
    """A trained matrix had no part in the loss, or not one input for each row."""


class UnitGradients(Protocol):
    """A way to compute gradients of units over d trained coordinates.

    Attributes:
        name: what it is called in reports.
    """

    @property
    def name(self) -> str: ...

    def of(
        self, losses: Callable[[], torch.Tensor], sizes: Sequence[int], whole: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean gradients of the units of one physical batch.

        Args:
            losses: one forward pass, to the losses [B] of its rows. The rows of a unit stand next to each other.
            sizes: how many rows each of the U units has here, 1 or more each, B in all.
            whole: how many rows each unit has in all, where this batch does not hold all of them. The results of the
                batches of a unit then add up to its mean gradient.

        Returns:
            float32 [U, d] in schema order, which the next call may overwrite; and the losses [B], detached.

        Raises:
            GradientsMissingError: a LoRA matrix had no part in the loss.
        """
        ...

    def plain(self, loss: torch.Tensor) -> torch.Tensor:
        """The gradient of one loss, float32 [d], by autograd alone: the slow reference."""
        ...


def weighted_sum(values: torch.Tensor, sizes: Sequence[int], whole: Sequence[int] | None) -> torch.Tensor:
    """The sum [] of row losses [B], each over the number of its unit's rows, so that gradients come out as means."""
    counts = sizes if whole is None else whole
    if all(count == 1 for count in counts):
        return values.sum()
    shares = [1.0 / count for size, count in zip(sizes, counts, strict=True) for _ in range(size)]
    return (values * torch.tensor(shares, device=values.device, dtype=values.dtype)).sum()


def unit_sums(rows: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Sum over the rows of each unit.

    Args:
        rows: [B, ...], the rows of a unit next to each other.
        sizes: how many rows each of the U units has, 1 or more each, B in all.

    Returns:
        [U, ...]; `rows` itself where every unit has one row.
    """
    if sum(sizes) != len(rows):
        raise ValueError(f"units of {sum(sizes)} rows, but {len(rows)} rows")
    if all(size == 1 for size in sizes):
        return rows
    counts = torch.tensor(sizes, device=rows.device)
    owners = torch.repeat_interleave(torch.arange(len(sizes), device=rows.device), counts)
    return rows.new_zeros(len(sizes), *rows.shape[1:]).index_add(0, owners, rows)


def plain_gradient(loss: torch.Tensor, parameters: Mapping[str, nn.Parameter]) -> torch.Tensor:
    """The gradient of one loss, float32 [d], by autograd alone."""
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return torch.cat([gradient.reshape(-1).float() for gradient in gradients])


def check_against_loop(
    gradients: UnitGradients, losses: Callable[[Sequence[int]], torch.Tensor], rows: int, family: str, tolerance: float
) -> None:
    """Compare the gradients of one batch with one autograd pass for each of its rows alone.

    Args:
        gradients: what is checked, with each row as a unit and with units of several rows.
        losses: from row numbers to their losses, by one forward pass.
        rows: how many rows there are, 2 or more.
        family: the model family, for the refusal.
        tolerance: on the norm of the difference relative to the norm of the reference.

    Raises:
        UserError: they differ, or a trained matrix has no part in the loss.
    """
    alone = torch.stack([gradients.plain(losses([row]).sum()) for row in range(rows)])
    for sizes in ([1] * rows, [1, rows - 1], [rows]):
        try:
            found = gradients.of(lambda: losses(range(rows)), sizes)[0]
        except GradientsMissingError as error:
            raise _unequal(family, str(error)) from None
        for unit, end in enumerate(accumulate(sizes)):
            reference = alone[end - sizes[unit] : end].mean(0)
            length = torch.linalg.vector_norm(reference)
            if not (length > 0 and torch.linalg.vector_norm(found[unit] - reference) <= tolerance * length):
                raise _unequal(family, gradients.name)


def _unequal(family: str, why: str) -> UserError:
    return UserError(
        f"per-unit gradients of model family {family!r} do not equal a loop over its rows ({why})",
        "choose a model of another family or other LoRA targets",
    )
