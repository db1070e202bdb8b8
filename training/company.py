"""Is a row's gradient a function of that row? Asked of the machine at hand, before any budget is spent.

Nothing in IEEE arithmetic promises that the rows of a tile are computed alike, whatever stands beside them: it is a
habit of the libraries, which `tiles` gives every chance to. Whoever picks the adapter would pick one at which the
difference matters, so the question is asked at adapters of that kind.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from ..adapter.schema import AdapterSchema
from .adapter import parameters_of

_ORDINARY: Final = 0.02
_SPREAD: Final = 12.0
_HUGE: Final = 1e4  # squared by the two matrices of a map
_LARGEST: Final = 1e30


def adapters(schema: AdapterSchema, gains: Mapping[str, float] | None = None) -> Iterator[NDArray[np.float32]]:
    """Adapters float32 [d] at which roundings show: ordinary, spread wide, and huge of rank one in one map.

    Args:
        schema: of the adapter.
        gains: of each tensor, by how much a number of it changes the weights of its map (`gains_of`): whatever scale or
            directions somebody agreed on, the changes that are tried have the same sizes. None: by as much.
    """
    generator = np.random.default_rng(0)

    def at(size: float, name: str) -> float:
        scaled = size if gains is None else size / gains[name]
        return scaled if scaled < _LARGEST else size

    for spread in (_ORDINARY, _SPREAD):
        wide = np.zeros(schema.dimension, dtype=np.float32)
        for name, matrix in schema.split(wide).items():
            matrix[...] = at(spread, name) * generator.standard_normal(matrix.shape)
        yield wide
    modules = list(dict.fromkeys(name.rsplit(".lora_", 1)[0] for name in schema.names))
    attention = next((name for part in ("k_proj", "q_proj", "attn") for name in modules if part in name), modules[0])
    for module in dict.fromkeys((attention, modules[-1])):
        huge = np.zeros(schema.dimension, dtype=np.float32)
        for name, matrix in schema.split(huge).items():
            if name.rsplit(".lora_", 1)[0] == module:
                line = matrix[0] if ".lora_A" in name else matrix[:, 0]
                line[:] = at(_HUGE, name) * generator.standard_normal(len(line))
        yield huge


def gains_of(model: PeftModel, schema: AdapterSchema) -> dict[str, float]:
    """What a number of each trained tensor is worth beside one of plain LoRA's at scale 1.

    Of A and B that are both trained, each carries the root of the scale. Behind given directions it is the scale times
    the root mean square of what a number is spread by.
    """
    parameters, gains = parameters_of(model), {}
    layers = {path: module for path, module in model.named_modules() if hasattr(module, "lora_A")}
    for name in schema.names:
        layer: Any = layers[name.rsplit(".lora_", 1)[0]]
        scale, left, right = layer.scaling["default"], layer.lora_B["default"], layer.lora_A["default"]
        if ".lora_R." in name:
            spread = right.inputs.weight.norm() * left.weight.norm()
            gain = scale * float(spread) / math.sqrt(right.inputs.weight.shape[1] * left.weight.shape[0])
        elif right.weight.requires_grad:
            gain = math.sqrt(scale)
        else:
            gain = scale * float(right.weight.norm()) / math.sqrt(right.weight.shape[1])
        gains[name] = gain if math.isfinite(gain) and gain > 0 else 1.0
    assert set(parameters) == set(gains)
    return gains


def in_company(means: Callable[[Sequence[int]], tuple[torch.Tensor, torch.Tensor]], rows: Sequence[int]) -> bool:
    """Whether the first row has the same bits alone and among others, in the first, the last and a middle place.

    Args:
        means: rows, each a unit, to their gradients float32 [U, d] and losses [U].
        rows: of one shape, one more than its tile holds.
    """
    one, *others = rows
    places = len(others)
    middle = places // 2
    company = [one, *others[: middle - 1], one, *others[middle : places - 2], one]

    def bits(units: Sequence[int]) -> list[torch.Tensor]:
        mine = [place for place, unit in enumerate(units) if unit == one]
        return [found[mine].clone() for found in means(units)]

    alone = bits([one])
    among = (bits(company), bits([others[-1], one]))
    return all(_equal(found, expected) for each in among for found, expected in zip(each, alone, strict=True))


def _equal(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """A NaN equals every NaN: such a row is dropped."""
    return bool(((found == expected) | (found.isnan() & expected.isnan())).all())
