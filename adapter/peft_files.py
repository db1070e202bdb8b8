"""Adapters as PEFT writes them: `adapter_model.safetensors` and `adapter_config.json`. Needs no torch."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .. import atomic
from ..errors import UserError
from .basis import Basis
from .schema import AdapterSchema

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

Form = Literal["lora", "ffa", "core"]


@dataclass(frozen=True)
class LoraSettings:
    """Which low-rank matrices are trained (Hu et al. 2021).

    Attributes:
        rank: r, 1 or more.
        alpha: the update is scaled by alpha / rank, or by alpha / sqrt(rank) with `rslora`.
        targets: last components of module names, e.g. ("q_proj", "v_proj"), or ("all-linear",): every linear map
            inside the decoder layers.
        rslora: rank-stabilized scaling (Kalajdzievski 2023).
        top_layers: only the last so many decoder layers; 0 means all.
        form: what is trained of them, see `forms`.
        basis: the directions of the forms "ffa" and "core".

    Raises:
        UserError: a number is outside its range or there is no target.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    rslora: bool
    top_layers: int
    form: Form = "lora"
    basis: Basis | None = None

    @property
    def moved(self) -> int:
        """Tokens whose logits a core moves; 0: the adapter is none."""
        return 0 if self.basis is None else self.basis.moved

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or self.top_layers < 0:
            raise UserError(
                f"LoRA of rank {self.rank}, alpha {self.alpha}, top_layers {self.top_layers}",
                "set rank to 1 or more, alpha above 0 and top_layers to 0 (all) or more",
            )
        if not self.targets:
            raise UserError("LoRA has no target modules", 'set targets, e.g. to ["all-linear"]')


def export_peft(
    folder: Path,
    adapter: NDArray[np.float32],
    schema: AdapterSchema,
    lora: LoraSettings,
    base_name: str,
    mode: int = 0o644,
) -> None:
    """Write an adapter that `peft.PeftModel.from_pretrained(base, folder)` loads.

    Args:
        folder: made if missing. Each file is replaced atomically, the configuration last.
        adapter: float32 [d].
        schema: its names and shapes.
        lora: how it was trained.
        base_name: what `base_model_name_or_path` shall say.
        mode: permission bits of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in schema.split(adapter).items()}
    atomic.write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}), mode)
    atomic.write_text(folder / CONFIG, json.dumps(_configuration(schema, lora, base_name), indent=2) + "\n", mode)


def import_peft(folder: Path, schema: AdapterSchema) -> NDArray[np.float32]:
    """Read an adapter back.

    Args:
        folder: what `export_peft`, or PEFT itself, wrote.
        schema: what it must hold, no more and no less.

    Returns:
        float32 [d].

    Raises:
        UserError: a file is missing or damaged, a tensor is missing, additional, of another shape or not finite.
    """
    path = folder / WEIGHTS
    try:
        # Twice the payload covers float64 and the header; nothing larger is read.
        if path.stat().st_size > 8 * schema.dimension * 2 + 2**20:
            raise UserError(f"{path} is larger than its schema", "point to the adapter of this run")
        tensors = load(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "point to a folder with a PEFT adapter") from None
    except (SafetensorError, struct.error, ValueError, KeyError):
        raise UserError(f"{path} is not a safetensors file", "copy the adapter again") from None
    return _flatten(path, tensors, schema)


def _flatten(path: Path, tensors: dict[str, NDArray[Any]], schema: AdapterSchema) -> NDArray[np.float32]:
    if set(tensors) != set(schema.names):
        odd = sorted(set(tensors) ^ set(schema.names))[0]
        raise UserError(f"{path} and the schema differ at {odd[:120]}", "point to the adapter of this run")
    adapter = np.empty(schema.dimension, dtype=np.float32)
    for name, view in schema.split(adapter).items():
        if tensors[name].shape != view.shape:
            raise UserError(
                f"{path}: {name} has the shape {tensors[name].shape}, the schema says {view.shape}",
                "point to the adapter of this run",
            )
        view[...] = tensors[name]
    if not np.isfinite(adapter).all():
        raise UserError(f"{path} holds numbers that are not finite", "use an adapter of an earlier round")
    return adapter


def _configuration(schema: AdapterSchema, lora: LoraSettings, base_name: str) -> dict[str, Any]:
    layers = list(schema.layers) if lora.top_layers else None
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rslora,
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in schema.modules}),
        "layers_to_transform": layers,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
