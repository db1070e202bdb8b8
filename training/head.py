"""From final hidden states to the logits that the training loss is taken over."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from ..errors import UserError
from .layers import scaled_logits


class Head:
    """The model's output embeddings, or those of some tokens.

    A vocabulary of tens of thousands is most of a step where only the last layer is trained. There the loss is taken
    over agreed tokens, the answers' and the likeliest others: a softmax over fewer tokens, whose gradient pushes down
    only these. A target that is not among them joins them at its own position, so that every record teaches. It is a
    loss of its own, agreed with the basis.
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
        self._every: Any = self._linear
        self._places: torch.Tensor | None = None
        self._agreed = tokens.astype(np.int64) if len(tokens) else None
        if len(tokens):
            self._linear = _some(self._linear, tokens)
            places = np.full(int(self._every.weight.shape[0]), len(tokens), dtype=np.int64)
            places[tokens] = np.arange(len(tokens))
            self._places = torch.from_numpy(places).to(model.device)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, hidden] to [n, K]."""
        return scaled_logits(self._model, self._linear(hidden))

    def losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each target, float32 [n] in nats.

        Args:
            hidden: [n, hidden]. targets: token ids, int64 [n].
        """
        logits = self.logits(hidden).float()
        if self._places is None:
            return cross_entropy(logits, targets, reduction="none")
        places = self._places[targets]
        outside = (places == logits.shape[1])[:, None]
        logits = torch.cat([logits, torch.where(outside, self._own(hidden, targets), -torch.inf)], dim=1)
        return cross_entropy(logits, places, reduction="none")

    def _own(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The logit of each position's own target, float32 [n, 1]."""
        own = (hidden.float() * self._every.weight.detach()[targets].float()).sum(1, keepdim=True)
        bias = getattr(self._every, "bias", None)
        return scaled_logits(self._model, own if bias is None else own + bias.detach()[targets, None].float())

    def drawn(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Tokens by chance, int64: of the agreed ones and of all, as likely."""
        every = generator.integers(0, int(self._every.weight.shape[0]), count)
        if self._agreed is None:
            return every
        return np.where(generator.random(count) < 0.5, generator.choice(self._agreed, count), every)


def _some(linear: Any, tokens: NDArray[np.int32]) -> nn.Linear:
    """The rows of a linear map that belong to these tokens."""
    chosen = torch.from_numpy(tokens.astype(np.int64)).to(linear.weight.device)
    weight, bias = linear.weight.detach()[chosen].clone(), getattr(linear, "bias", None)
    part = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype)
    part.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        part.bias = nn.Parameter(bias.detach()[chosen].clone(), requires_grad=False)
    return part
