"""Forms of an adapter: what of a low-rank update is trained, and how it is written as ordinary LoRA.

- "lora": W + s B A, both trained (Hu et al. 2021).
- "ffa": A = V is given and frozen, B is trained (FFA-LoRA, Sun et al., ICLR 2024): the update is linear in what is
  trained, so a mean of adapters is the adapter of the mean, and noise is not multiplied by noise.
- "core": W + s U R V with V and U given, the core R [u, v] trained (LoRA-XS, Balazy et al. 2024, has U and V from the
  weights' singular vectors): few coordinates, so that little noise is added.

Of the latter two a start may be given with the basis: it is added to what is trained, frozen.

NumPy only.
"""

from dataclasses import replace
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .basis import Basis
from .peft_files import LoraSettings
from .schema import AdapterSchema, module_of

_PREFIX = "base_model.model."


def as_lora(
    lora: LoraSettings, schema: AdapterSchema, adapter: NDArray[np.float32]
) -> tuple[LoraSettings, AdapterSchema, NDArray[np.float32]]:
    """An adapter of any form as plain LoRA with the same updates B A of every map.

    Args:
        lora: its settings. schema: names and shapes of what is trained. adapter: float32 [d].

    Returns:
        Settings of form "lora", names and shapes, float32 [d'] to the rounding of one product of matrices.
    """
    if lora.form == "lora":
        return lora, schema, adapter
    basis = require_basis(lora)
    scale = lora.alpha / (sqrt(lora.rank) if lora.rslora else lora.rank)
    names: list[str] = []
    parts: list[NDArray[np.float32]] = []
    for name, trained in schema.split(adapter).items():
        module = module_of(name)
        given = basis.modules[module]
        if given.start is not None:
            trained = trained + given.start
        if given.outputs is None or lora.form == "ffa":
            left, right = trained, given.inputs
        elif len(trained) <= trained.shape[1]:
            left, right = given.outputs, trained @ given.inputs
        else:
            left, right = given.outputs @ trained, given.inputs
        names += [f"{_PREFIX}{module}.lora_A.weight", f"{_PREFIX}{module}.lora_B.weight"]
        parts += [np.ascontiguousarray(right, dtype=np.float32), (scale * left).astype(np.float32)]
    rank = max(len(part) for part in parts[::2])
    if any(len(part) != rank for part in parts[::2]):
        parts = [_widened(part, rank, place % 2) for place, part in enumerate(parts)]
    plain = replace(lora, form="lora", basis=None, rank=rank, alpha=float(rank), rslora=False)
    shapes = tuple(tuple(part.shape) for part in parts)
    return plain, AdapterSchema(tuple(names), shapes), np.concatenate([part.reshape(-1) for part in parts])


def require_basis(lora: LoraSettings) -> Basis:
    """The basis of a form that needs one.

    Raises:
        UserError: there is none.
    """
    if lora.basis is None:
        raise UserError(
            f"adapter form {lora.form!r} needs a basis", "get basis.safetensors from who drafted the charter"
        )
    return lora.basis


def _widened(part: NDArray[np.float32], rank: int, side: int) -> NDArray[np.float32]:
    """Zeros up to a common rank: PEFT has one for all maps."""
    missing = rank - part.shape[side]
    return np.pad(part, ((0, missing), (0, 0)) if side == 0 else ((0, 0), (0, missing)))
