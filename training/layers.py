"""Where a causal language model keeps its backbone, its decoder layers and its head."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import UserError


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its head."""
    found = getattr(model, model.base_model_prefix, None)
    if not isinstance(found, nn.Module):
        raise unsupported(model, "no backbone under its usual name")
    return found


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers, input side first."""
    return slot(model)[2]


def slot(model: PreTrainedModel) -> tuple[nn.Module, str, nn.ModuleList]:
    """The module that holds the list of decoder layers, the attribute's name, and the list.

    Raises:
        UserError: the family keeps its layers in another way.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    body = backbone(model)
    for name, child in body.named_children():
        if isinstance(child, nn.ModuleList) and len(child) == depth:
            return body, name, child
    raise unsupported(model, "its decoder layers are not one list in its backbone")


def inputs_of(module: Any) -> int:
    """Of a linear map, or of transformers' Conv1D, which is stored the other way round."""
    return int(module.weight.shape[1] if isinstance(module, nn.Linear) else module.weight.shape[0])


def outputs_of(module: Any) -> int:
    """The same for its outputs."""
    return int(module.weight.numel()) // inputs_of(module)


def head_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [n, vocabulary] of final hidden states [n, hidden].

    A family with another rule fails the equality check at start.
    """
    return scaled_logits(model, model.get_output_embeddings()(hidden))


def scaled_logits(model: PreTrainedModel, logits: torch.Tensor) -> torch.Tensor:
    """Logits with the scalings that families apply behind the output embeddings."""
    config: Any = model.config
    if getattr(config, "logits_scaling", None):  # Granite
        logits = logits / config.logits_scaling
    if getattr(config, "logit_scale", None):  # Cohere
        logits = logits * config.logit_scale
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    return torch.tanh(logits / cap) * cap if cap else logits


def unsupported(model: PreTrainedModel, what: str) -> UserError:
    """The refusal of a model family, by name."""
    family = getattr(model.config, "model_type", type(model).__name__)
    return UserError(f"model family {family!r} is not supported: {what}", "choose a model of another family")
