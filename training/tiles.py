"""Rows on their way through the model: tiles of fixed shapes, and the loss of each row's answer.

Sums of rounded numbers depend on the shape they are taken in: the same row gets other last bits behind more padding or
in a larger batch, and clipping can blow up such bits to the clip norm. So the shape that a row passes through the model
in follows from that row alone: its length and its answer, each rounded up, and a number of rows that follows from them.
Which rows fill a tile changes neither; places that no row fills hold constants. `company` checks on the machine at hand
that a row's result is then a function of the row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .head import Head

LENGTH_STEP: Final = 32
"""Positions are a multiple of it."""

LEAST_SLOTS: Final = 2
"""Places for answer tokens in a row: a power of two from here on."""

ROWS: Final = 8
"""Of a tile. Matrix products over fewer rows than this round in several ways (measured on a CPU)."""


class Row(Protocol):
    """What is needed of an example here: its tokens, int32 [T], and where the answer starts among them."""

    @property
    def tokens(self) -> NDArray[np.int32]: ...
    @property
    def answer_start(self) -> int: ...


@dataclass(frozen=True, order=True)
class Shape:
    """What a row passes through the model in: B `rows` of T `positions`, each with S `slots` for answer tokens.

    No `positions`: only what belongs to the answer tokens passes through.
    """

    positions: int
    slots: int
    rows: int


@dataclass(frozen=True)
class Shapes:
    """The shape of a row, from that row alone.

    Attributes:
        tokens: padded tokens that should pass through the model at once. A tile has `ROWS` rows, also where they hold
            more tokens than this, and up to `most_rows` where they hold fewer.
        most_rows: of a tile.
        context: the most positions that the model has; None where it sets no limit.
        answers_only: rows pass through as their answers' positions side by side.
    """

    tokens: int
    most_rows: int = ROWS
    context: int | None = None
    answers_only: bool = False

    def of(self, row: Row) -> Shape:
        """The shape of a row.

        Raises:
            ValueError: the row has no answer token, or none before it.
        """
        if not 0 < row.answer_start < len(row.tokens):
            raise ValueError(f"a row of {len(row.tokens)} tokens whose answer starts at {row.answer_start}")
        inputs = len(row.tokens) - 1
        positions = -(-inputs // LENGTH_STEP) * LENGTH_STEP
        if self.context is not None:
            positions = max(inputs, min(positions, self.context))
        slots = max(LEAST_SLOTS, 1 << (len(row.tokens) - row.answer_start - 1).bit_length())
        if self.answers_only:
            return Shape(0, slots, max(ROWS, min(self.most_rows, self.tokens // slots)))
        return Shape(positions, slots, max(ROWS, min(self.most_rows, self.tokens // positions)))


@dataclass(frozen=True, eq=False)
class Tile:
    """Rows, padded on the right to T positions, and the answer tokens that are predicted in each.

    Causal attention keeps padding on the right out of every real position, so no attention mask is needed. The last
    token of a row is only ever predicted, so it is not among the inputs.

    Attributes:
        inputs: int64 [B, T] token ids; padding is token 0; nothing where only answers pass through.
        positions: int64 [B, S], where each answer token is predicted from; 0 where there is none.
        targets: int64 [B, S], the answer tokens; 0 where there is none.
        real: bool [B, S], whether there is one.
        counts: float32 [B], answer tokens in each row, at least 1.
    """

    inputs: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    real: torch.Tensor
    counts: torch.Tensor


def collate(rows: Sequence[Row], shape: Shape, device: torch.device) -> Tile:
    """A tile of rows of that shape; the places behind them hold zeros, and one answer token at position 0."""
    if len(rows) > shape.rows:
        raise ValueError(f"{len(rows)} rows for a tile of {shape.rows}")
    inputs = np.zeros((shape.rows, shape.positions), dtype=np.int64)
    positions, targets = np.zeros((2, shape.rows, shape.slots), dtype=np.int64)
    counts = np.ones(shape.rows, dtype=np.int64)
    for place, row in enumerate(rows):
        if shape.positions:
            inputs[place, : len(row.tokens) - 1] = row.tokens[:-1]
        count = counts[place] = len(row.tokens) - row.answer_start
        positions[place, :count] = np.arange(row.answer_start - 1, len(row.tokens) - 1)
        targets[place, :count] = row.tokens[row.answer_start :]
    real = np.arange(shape.slots) < counts[:, None]
    parts = (inputs, positions, targets, real, counts.astype(np.float32))
    return Tile(*(torch.from_numpy(part).to(device) for part in parts))


def row_losses(hidden: torch.Tensor, head: Head, tile: Tile) -> torch.Tensor:
    """Mean negative log-likelihood of each row's answer tokens, in nats a token.

    Args:
        hidden: [B, S, hidden] final hidden states at the answer positions.
        head: what the loss is taken over.
        tile: the rows.

    Returns:
        float32 [B].
    """
    losses = head.losses(hidden.flatten(0, 1), tile.targets.flatten())
    sums = torch.where(tile.real, losses.view_as(tile.real), 0.0).sum(1)
    return sums / tile.counts


def at_answers(states: torch.Tensor, tile: Tile) -> torch.Tensor:
    """States [B, T, size] at the answer positions: [B, S, size]."""
    return states.gather(1, tile.positions[:, :, None].expand(-1, -1, states.shape[2]))


def from_answers(states: torch.Tensor, tile: Tile) -> torch.Tensor:
    """States [B, S, size] put back at the answer positions, zero elsewhere: [B, T, size]."""
    wide = states.new_zeros(*tile.inputs.shape, states.shape[2])
    places = tile.positions[:, :, None].expand_as(states)
    # Places without a token add a zero to position 0, which is exact in any order.
    return wide.scatter_add(1, places, torch.where(tile.real[:, :, None], states, 0.0))


def tiles(units: Sequence[Sequence[int]], shapes: Sequence[Shape]) -> Iterator[tuple[Shape, list[tuple[int, int]]]]:
    """The rows of some units in tiles, each with its shape and its (unit, row).

    Args:
        units: the rows of each unit.
        shapes: of every row of the data set.

    Guarantees:
        The order in which a unit's own rows come follows from that unit: by shape, then as they are given.
    """
    order = sorted((shapes[row], unit, place, row) for unit, rows in enumerate(units) for place, row in enumerate(rows))
    tile: list[tuple[int, int]] = []
    for number, (shape, unit, _, row) in enumerate(order):
        tile.append((unit, row))
        last = number + 1 == len(order) or order[number + 1][0] != shape
        if last or len(tile) == shape.rows:
            yield shape, tile
            tile = []


def pack(units: Sequence[Sequence[int]], shapes: Sequence[Shape], most: int) -> list[list[int]]:
    """Group units of similar shapes, so that few places of their tiles are left to constants.

    Args:
        units: the rows of each unit, each with one row or more.
        shapes: of every row of the data set.
        most: units in a group, 1 or more.

    Returns:
        Groups of positions in `units`.
    """
    order = sorted(range(len(units)), key=lambda unit: (max(shapes[row] for row in units[unit]), unit))
    return [order[start : start + most] for start in range(0, len(order), most)]
