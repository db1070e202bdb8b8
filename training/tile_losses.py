"""The losses of a data set's rows, tile by tile: through all layers, or from cached hidden states on."""

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import PreTrainedModel

from .forward import FullForward, TopForward, answers_only
from .tiles import Row, Shape, collate, row_losses


class States(Protocol):
    """Hidden states that enter the first trained layer."""

    def tile(self, rows: Sequence[int], shape: Shape, device: torch.device) -> torch.Tensor:
        """[B, T, hidden] of the rows, zero where padded and in places without a row."""
        ...


class TileLosses:
    """Losses of rows in a tile of their shape, at the adapter that is set in the model.

    Attributes:
        rows: the data set.
        parts: of the last layer that run at the answers' positions only.
    """

    def __init__(
        self, model: PreTrainedModel, rows: Sequence[Row], layer: int, states: States | None, parts: Sequence[str]
    ) -> None:
        """
        Args:
            model: the causal language model.
            rows: the data set.
            layer: the first one that `states` enter.
            states: of the same rows; None computes all layers.
            parts: of the last layer that run at the answers' positions only, see `forward.NARROWED`.
        """
        self.parts = parts
        self._model = model
        self.rows = rows
        self._full = FullForward(model)
        self._top = None if states is None else TopForward(model, layer)
        self._states = states

    def __call__(self, rows: Sequence[int], shape: Shape) -> torch.Tensor:
        """Mean negative log-likelihood of each row's answer tokens: float32 [B], nats a token; the rest is filler."""
        device = self._model.device
        tile = collate([self.rows[row] for row in rows], shape, device)
        with answers_only(self._model, tile, self.parts):
            if self._top is None or self._states is None:
                hidden = self._full(tile.inputs)
            else:
                hidden = self._top(self._states.tile(rows, shape, device))
            return row_losses(hidden, self._full.head, tile)
