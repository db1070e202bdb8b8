"""From final hidden states to the logits that the training loss is taken over."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from ..errors import UserError
from .layers import scaled_logits


class Head:
    """The model's output embeddings, or those of some tokens.

    A vocabulary of tens of thousands is most of a step where only the last layer is trained. Where answers are labels,
    the loss is taken over their tokens and the likeliest others: a softmax over fewer tokens, whose gradient pushes
    down only these. It is a loss of its own, agreed with the basis.
    """

    def __init__(self, model: PreTrainedModel, tokens: NDArray[np.int32]) -> None:
        """
        Args:
            model: a causal language model.
            tokens: int32 [K], ascending; empty: all.

        Raises:
            UserError: the model has no such token.
        """
        self._model = model
        self._linear: Any = model.get_output_embeddings()
        if len(tokens) and int(tokens[-1]) >= int(self._linear.weight.shape[0]):
            raise UserError("the basis has tokens that the model lacks", "make the basis for this model")
        self._tokens = tokens if len(tokens) else np.arange(int(self._linear.weight.shape[0]), dtype=np.int32)
        self._places: torch.Tensor | None = None
        if len(tokens):
            self._linear = _some(self._linear, tokens)
            places = np.zeros(int(model.get_output_embeddings().weight.shape[0]), dtype=np.int64)
            places[tokens] = np.arange(len(tokens))
            self._places = torch.from_numpy(places).to(model.device)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, hidden] to [n, K]."""
        return scaled_logits(self._model, self._linear(hidden))

    def places(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids to columns of the logits; a filler, or a token that is not among them, to some column."""
        return tokens if self._places is None else self._places[tokens]

    def holds(self, tokens: NDArray[np.int32]) -> bool:
        """Whether a loss can be taken at these tokens."""
        return self._places is None or bool(np.isin(tokens, self._tokens).all())

    def drawn(self, generator: np.random.Generator, count: int) -> NDArray[np.int32]:
        """Tokens by chance."""
        return generator.choice(self._tokens, count)


def _some(linear: Any, tokens: NDArray[np.int32]) -> nn.Linear:
    """The rows of a linear map that belong to these tokens."""
    chosen = torch.from_numpy(tokens.astype(np.int64)).to(linear.weight.device)
    weight, bias = linear.weight.detach()[chosen].clone(), getattr(linear, "bias", None)
    part = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype)
    part.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        part.bias = nn.Parameter(bias.detach()[chosen].clone(), requires_grad=False)
    return part
