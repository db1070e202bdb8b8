"""Gradient inversion: the words of a record from one gradient of LoRA matrices, by linear algebra alone.

The gradient of lora_A at a linear map is a sum over positions of (something) times the map's input. At the first
layer's query, key and value maps that input is the normalized embedding of the token at the position, whatever stands
around it. So the rows of these gradients lie in the span of the embeddings of the record's tokens, and a token of the
vocabulary is in the record exactly where its embedding lies in that span, as long as the gradients' rank leaves room.
This is the span check of DAGER (Petrov et al. 2024) on LoRA's matrices; that a linear map's gradient holds its input is
older (Phong et al. 2018). Unlike the search for inputs whose gradient matches (Zhu et al. 2019, "Deep Leakage from
Gradients") it needs no optimization and is exact.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..adapter.schema import AdapterSchema
from ..training.base import BaseModel

_MAPS = ("q_proj", "k_proj", "v_proj")
# Singular values below this share of the largest are rounding.
_ROUNDING = 1e-5


def token_inputs(base: BaseModel) -> NDArray[np.float64]:
    """What enters the first layer's attention maps for each token of the vocabulary: float64 [V, hidden], unit rows."""
    model: Any = base.model
    with torch.no_grad():
        inputs = model.model.layers[0].input_layernorm(model.get_input_embeddings().weight)
    rows = inputs.double().cpu().numpy()
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def first_layer(update: NDArray[np.float64], schema: AdapterSchema) -> NDArray[np.float64]:
    """The gradients of lora_A at the first layer's attention maps, stacked: float64 [3 rank, hidden] of [d]."""
    parts = [
        update[where].reshape(shape)
        for name, shape, where in zip(schema.names, schema.shapes, schema.slices, strict=True)
        if ".layers.0." in name and ".lora_A." in name and name.split(".lora_A.")[0].endswith(_MAPS)
    ]
    return np.concatenate(parts)


def by_span(gradient: NDArray[np.float64], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each token's input lies in the span of the gradient's rows: float64 [V] in [0, 1]; 1 is a hit."""
    _, singular, rows = np.linalg.svd(gradient, full_matrices=False)
    rank = int(np.count_nonzero(singular > _ROUNDING * singular[0])) if singular[0] > 0 else 0
    shares: NDArray[np.float64] = ((inputs @ rows[:rank].T) ** 2).sum(axis=1)
    return shares


def by_energy(gradient: NDArray[np.float64], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """How strong the gradient is along each token's input: float64 [V]; what is left to try where noise has full
    rank."""
    energies: NDArray[np.float64] = ((inputs @ gradient.T) ** 2).sum(axis=1)
    return energies


def recovered(scores: NDArray[np.float64], tokens: set[int]) -> float:
    """The share of the true tokens among as many best guesses. That the attacker is told how many helps it."""
    best = np.argsort(-scores, kind="stable")[: len(tokens)]
    return len(tokens & {int(token) for token in best}) / len(tokens)
