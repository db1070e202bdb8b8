"""Mean gradients of privacy units, each a function of the unit's own rows.

The gradients of a unit's rows are added in an order that follows from the unit (`tiles.tiles`). What cannot be computed
costs the unit that it belongs to, and no other: whether a step ends, and how, must not tell anything about the data.
"""

import logging
from collections.abc import Callable, Sequence

import torch

from .per_row import aligned
from .tiles import Shape, tiles

logger = logging.getLogger("cotune.training")

Compute = Callable[[Sequence[int], Shape], tuple[torch.Tensor, torch.Tensor]]
"""Rows, of one shape, to their gradients float32 [B, d] and losses [B] in a tile; what follows them is filler."""


def unit_means(
    units: Sequence[Sequence[int]], shapes: Sequence[Shape], compute: Compute, alone: bool, dimension: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean gradients and mean losses of units.

    Args:
        units: the rows of each unit, one or more.
        shapes: of every row of the data set.
        compute: gradients and losses of the rows of one tile.
        alone: whether each row gets a tile of its own.
        dimension: d.

    Returns:
        float32 [U, d] and float32 [U]; NaN throughout for a unit of which a row failed, with whatever exception.

    Guarantees:
        Both are functions of the unit's rows, if `compute` gives each row what follows from that row and its shape.
    """
    means: torch.Tensor | None = None
    losses, failed = torch.zeros(len(units), dtype=torch.float64), dict[int, str]()
    for shape, tile in tiles(units, shapes):
        for members in [[one] for one in tile] if alone else [tile]:
            for unit, gradient, loss in _computed(members, shape, compute, failed):
                if means is None:
                    means = aligned(len(units), dimension, gradient.device)
                means[unit] += gradient
                losses[unit] += loss
    if means is None:
        means = aligned(len(units), dimension, torch.device("cpu"))
    for unit, rows in enumerate(units):
        if len(rows) > 1:
            means[unit] /= len(rows)
            losses[unit] /= len(rows)
    for unit, kind in failed.items():
        # Nothing of the data: the message of an exception may quote some.
        logger.warning("a unit is left out of this step: %s", kind)
        means[unit], losses[unit] = torch.nan, torch.nan
    return means, losses.float()


def _computed(
    members: Sequence[tuple[int, int]], shape: Shape, compute: Compute, failed: dict[int, str]
) -> list[tuple[int, torch.Tensor, float]]:
    """(unit, gradient, loss) of the rows of one tile; a tile that fails is taken row by row, so that one alone fails.

    Everything that `compute` raises is caught: memory that is short, kernels that refuse numbers, files that are gone.
    """
    try:
        gradients, losses = compute([row for _, row in members], shape)
        found = losses.double().cpu().tolist()
        return [(unit, gradients[place], found[place]) for place, (unit, _) in enumerate(members)]
    except Exception as error:
        if len(members) == 1:
            failed[members[0][0]] = type(error).__name__
            return []
    return [
        (unit, gradient.clone(), loss)
        for member in members
        for unit, gradient, loss in _computed([member], shape, compute, failed)
    ]
