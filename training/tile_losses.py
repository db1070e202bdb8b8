"""The losses of a data set's rows, tile by tile: through all layers, or from a cut on."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from .cuts import Cut
from .forward import FullForward, answers_only
from .head import Head
from .tiles import Row, Shape, Tile, at_answers, collate, row_losses


class States(Protocol):
    """What the lower side of a cut gives of a data set."""

    def tile(self, rows: Sequence[int], shape: Shape, device: torch.device) -> torch.Tensor:
        """[B, T or S, width] of the rows, zero where padded and in places without a row."""
        ...


class TileLosses:
    """Losses of rows in a tile of their shape, at the adapter that is set in the model.

    Attributes:
        rows: the data set.
        parts: of the last layer that run at the answers' positions only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Sequence[Row],
        head: Head,
        cut: Cut | None = None,
        states: States | None = None,
        parts: Sequence[str] = (),
    ) -> None:
        """
        Args:
            model: the causal language model.
            rows: the data set.
            head: what the loss is taken over.
            cut: where the model is cut; None computes all layers.
            states: what its lower side gives of the same rows.
            parts: of the last layer that run at the answers' positions only, see `forward.NARROWED`.
        """
        self.parts = parts
        self.rows = rows
        self._model = model
        self._head = head
        self._full = FullForward(model)
        self._cut = cut
        self._states = states

    def __call__(self, rows: Sequence[int], shape: Shape) -> torch.Tensor:
        """Mean negative log-likelihood of each row's answer tokens: float32 [B], nats a token; the rest is filler."""
        hidden, tile = self.at_answers(rows, shape)
        return row_losses(hidden, self._head, tile)

    @torch.no_grad()
    def greedy(self, rows: Sequence[int], shape: Shape) -> torch.Tensor:
        """Whether greedy decoding writes each row's answer, token by token: bool [B]; the rest is filler.

        It does where every answer token is the likeliest of all behind the right ones before it.
        """
        return self.answered(rows, shape)[1]

    @torch.no_grad()
    def answered(self, rows: Sequence[int], shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each row's answer the negative log-likelihood among all tokens, float32 [B] in nats, and `greedy`."""
        hidden, tile = self.at_answers(rows, shape)
        logits = self._full.head(hidden.flatten(0, 1)).float()
        right = (logits.argmax(-1).view_as(tile.targets) == tile.targets) | ~tile.real
        losses = cross_entropy(logits, tile.targets.flatten(), reduction="none").view_as(tile.targets)
        return (losses * tile.real).sum(1), right.all(1)

    def at_answers(self, rows: Sequence[int], shape: Shape) -> tuple[torch.Tensor, Tile]:
        """Final hidden states [B, S, hidden] at the answer positions, and the tile that they are of."""
        device = self._model.device
        tile = collate([self.rows[row] for row in rows], shape, device)
        if self._cut is None or self._states is None:
            with answers_only(self._model, tile, self.parts):
                return at_answers(self._full(tile.inputs), tile), tile
        states = self._states.tile(rows, shape, device)
        if self._cut.answers_only:
            return self._cut.above(states), tile
        with answers_only(self._model, tile, self.parts):
            return at_answers(self._cut.above(states), tile), tile
