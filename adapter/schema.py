"""The shape of an adapter, without a model: names and shapes of its tensors, its flat vector, its first value.

NumPy only, so that a server can read and start an adapter without importing torch.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

# The most tensors and coordinates of an adapter that comes from outside: about a hundred layers of a 70B model.
_MOST_TENSORS = 20_000
_MOST_COORDINATES = 2**31
_NAME = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[ABR])\.weight")
_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")


@dataclass(frozen=True)
class AdapterSchema:
    """Names and shapes of the trainable tensors, in the order in which the flat vector holds them.

    Attributes:
        names: PEFT's names without the adapter's own name, e.g.
            "base_model.model.model.layers.29.self_attn.q_proj.lora_A.weight".
        shapes: one shape for each name; lora_A is [rank, inputs], lora_B is [outputs, rank], and lora_R, the core of a
            form with given directions (`forms`), is [their outputs, their inputs].

    Raises:
        UserError: a name is not that of a LoRA matrix, a name repeats, or a shape is not two positive numbers.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.names) <= _MOST_TENSORS or len(self.names) != len(self.shapes):
            raise _bad_schema(f"{len(self.names)} names and {len(self.shapes)} shapes")
        if len(set(self.names)) != len(self.names):
            raise _bad_schema("a name repeats")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if _NAME.fullmatch(name) is None:
                raise _bad_schema(f"{name[:80]!r} is not the name of a LoRA matrix")
            if len(shape) != 2 or min(shape) < 1:
                raise _bad_schema(f"{name[:80]} has the shape {shape}")
        if self.dimension > _MOST_COORDINATES:
            raise _bad_schema(f"{self.dimension} coordinates")

    @property
    def dimension(self) -> int:
        """d: the length of the flat vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def digest(self) -> str:
        """Hex SHA-256 over names and shapes in order."""
        return hashlib.sha256(json.dumps(self.to_lists(), separators=(",", ":")).encode()).hexdigest()

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where each tensor lies in the flat vector."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes]).tolist()
        return tuple(slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the decoder layers that carry LoRA, ascending; empty where the names hold no layer number."""
        found = (_LAYER.match(name.removeprefix("base_model.model.")) for name in self.names)
        return tuple(sorted({int(match.group(1)) for match in found if match}))

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the modules that carry LoRA, in order and once each, e.g. "model.layers.29.self_attn.q_proj"."""
        return tuple(dict.fromkeys(_parts(name)[0] for name in self.names))

    def to_lists(self) -> list[list[Any]]:
        """JSON-able: [[name, [rows, columns]], ...]."""
        return [[name, list(shape)] for name, shape in zip(self.names, self.shapes, strict=True)]

    @classmethod
    def from_lists(cls, lists: object) -> "AdapterSchema":
        """The inverse of `to_lists`, for what comes from a file or a peer.

        Raises:
            UserError: it is anything else.
        """
        if not isinstance(lists, list | tuple) or len(lists) > _MOST_TENSORS:
            raise _bad_schema("it is not a list of [name, shape]")
        for entry in lists:
            if not (isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[0], str)):
                raise _bad_schema("an entry is not [name, shape]")
            if not (isinstance(entry[1], list | tuple) and all(type(size) is int for size in entry[1])):
                raise _bad_schema(f"the shape of {entry[0][:80]} is not a list of whole numbers")
        return cls(tuple(entry[0] for entry in lists), tuple(tuple(entry[1]) for entry in lists))

    def split(self, adapter: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Views of the flat vector [d] as named matrices.

        Raises:
            ValueError: the vector is not float32 [d].
        """
        if adapter.dtype != np.float32 or adapter.shape != (self.dimension,):
            raise ValueError(f"an adapter of {adapter.dtype} {adapter.shape}, expected float32 ({self.dimension},)")
        parts = zip(self.names, self.shapes, self.slices, strict=True)
        return {name: adapter[where].reshape(shape) for name, shape, where in parts}


def initial(schema: AdapterSchema, seed: int) -> NDArray[np.float32]:
    """The first adapter, the same on every machine: distributed as PEFT's default, but independent of torch.

    lora_A is uniform in [-1/sqrt(inputs), 1/sqrt(inputs)) (Kaiming uniform with a = sqrt(5); Hu et al. 2021, section
    4.1, has a Gaussian instead), lora_B and lora_R are zero, so the adapted model starts as the base model.

    Args:
        schema: names and shapes.
        seed: 0 to 2^128 - 1.

    Returns:
        float32 [d].

    Guarantees:
        The same bits under every NumPy: it promises the stream of Philox' raw words, but not that of `uniform`.
    """
    words = np.random.Philox(key=seed)
    adapter = np.zeros(schema.dimension, dtype=np.float32)
    for name, tensor in schema.split(adapter).items():
        if _parts(name)[1] == "A":
            tensor[...] = (symmetric(words, tensor.size) / math.sqrt(tensor.shape[1])).reshape(tensor.shape)
    return adapter


def symmetric(words: np.random.Philox, count: int) -> NDArray[np.float64]:
    """Uniform numbers in [-1, 1) from a generator's raw words, float64 [count]."""
    uniform: NDArray[np.float64] = (words.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return 2.0 * uniform - 1.0


def module_of(name: str) -> str:
    """The path of the map that a tensor belongs to, e.g. "model.layers.29.mlp.down_proj"."""
    return _parts(name)[0]


def _parts(name: str) -> tuple[str, str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise _bad_schema(f"{name[:80]!r} is not the name of a LoRA matrix")
    return match["module"], match["side"]


def _bad_schema(what: str) -> UserError:
    return UserError(f"the adapter's schema is not usable: {what}", "draft the charter again with this cotune")
