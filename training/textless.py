"""Bases that no text has a part in: directions by chance, or the singular vectors of the frozen weights.

- By chance: V has orthonormal rows. With FFA-LoRA (form "ffa") this is what FedSVD (Lee et al. 2025) trains. It puts a
  singular value decomposition of their product in the place of (B, A) after each round, which turns the rows of A in
  their own space and leaves the product, the norm of B's gradient and the law of the noise on the product as they were.
- The weights: U and V are the leading singular vectors of W, as in LoRA-XS (Balazy et al. 2024), here both orthonormal.
  Fed-SB (Singhal et al. 2025) takes those of a gradient of all records instead, which tells of the records unless that
  gradient is noised and paid for; the published code does neither.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..adapter.basis import Basis, Directions
from ..adapter.peft_files import LoraSettings
from ..adapter.schema import symmetric
from ..errors import UserError
from .adapter import adapted_maps
from .base import BaseModel
from .layers import inputs_of, outputs_of

Numbers = NDArray[np.float64]


def random_basis(base: BaseModel, lora: LoraSettings, outputs: int, seed: int) -> Basis:
    """Directions by chance, the same on every machine: orthonormal rows of V, entries of U of variance 1 / outputs.

    Args:
        outputs: u of form "core". seed: 0 to 2^128 - 1.

    Raises:
        UserError: a map has fewer inputs than directions.
    """
    words = np.random.Philox(key=seed)

    def drawn(rows: int, columns: int) -> Numbers:
        return symmetric(words, rows * columns).reshape(rows, columns)

    modules = {}
    for path, module in adapted_maps(base, lora).items():
        ins, outs = inputs_of(module), outputs_of(module)
        _require_room(path, ins, lora.rank, "inputs")
        given = orthonormal(drawn(lora.rank, ins)).astype(np.float32)
        free = (drawn(outs, outputs) * np.sqrt(3.0 / outputs)).astype(np.float32) if lora.form == "core" else None
        modules[path] = Directions(given, free)
    return Basis(modules)


def weights_basis(base: BaseModel, lora: LoraSettings) -> Basis:
    """The leading singular vectors of every adapted map: V float32 [r, in], and for form "core" U float32 [out, r].

    The same again on one machine; on another it differs in last digits.

    Raises:
        UserError: a map has fewer inputs, or outputs, than directions.
    """
    modules = {}
    for path, module in adapted_maps(base, lora).items():
        _require_room(path, inputs_of(module), lora.rank, "inputs")
        _require_room(path, outputs_of(module), lora.rank, "outputs")
        left, _, right = np.linalg.svd(_weight(module), full_matrices=False)
        left, right = left[:, : lora.rank], right[: lora.rank]
        signs = np.sign(right[np.arange(lora.rank), np.abs(right).argmax(1)])  # a sign is nobody's choice
        outputs = (left * signs).astype(np.float32) if lora.form == "core" else None
        modules[path] = Directions((right * signs[:, None]).astype(np.float32), outputs)
    return Basis(modules)


def orthonormal(rows: Numbers) -> Numbers:
    """Gram and Schmidt, twice over, float64 [r, n]: running sums only, so that every machine finds the same bits."""
    found = rows.copy()
    for place in range(len(found)):
        for _ in range(2):
            for other in range(place):
                found[place] -= _dot(found[other], found[place]) * found[other]
        found[place] /= np.sqrt(_dot(found[place], found[place]))
    return found


def _dot(one: Numbers, other: Numbers) -> float:
    return float(np.cumsum(one * other)[-1])


def _weight(module: Any) -> Numbers:
    """[out, in]; transformers' Conv1D holds it the other way round."""
    weight = module.weight.detach().double().cpu().numpy()
    return np.asarray(weight if isinstance(module, nn.Linear) else weight.T)


def _require_room(path: str, has: int, rank: int, what: str) -> None:
    if rank > has:
        raise UserError(f"{path} has {has} {what}, too few for {rank} directions", f"set model.lora.rank={has} or less")
