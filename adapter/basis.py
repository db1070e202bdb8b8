"""The frozen directions of an adapter form: made from public text or by chance, agreed in the charter by their digest.

NumPy only, so that a server can read and export an adapter without importing torch.
"""

import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .. import atomic
from ..errors import UserError

Matrix = NDArray[np.float32]

_MOST_BYTES: Final = 2**28
_MOST_TOKENS: Final = 2**22
_MODULE: Final = re.compile(r"[A-Za-z0-9_.]{1,300}")
_INPUTS, _OUTPUTS, _START, _TOKENS = ".inputs", ".outputs", ".start", "tokens"


@dataclass(frozen=True, eq=False)
class Directions:
    """Of one linear map W [out, in].

    Attributes:
        inputs: V, float32 [v, in]: what of the map's input is looked at.
        outputs: U, float32 [out, u]: where its output can move; None leaves it free.
        start: float32, of the shape of what is trained: frozen, and added to it, so that training begins where public
            rows lead to; None: at the base model.
    """

    inputs: Matrix
    outputs: Matrix | None = None
    start: Matrix | None = None


class Basis:
    """The directions of every adapted map, and the tokens that the loss is taken over.

    Two are equal if their bytes are.

    Attributes:
        modules: path of a map, e.g. "model.layers.29.mlp.down_proj", to its directions.
        tokens: int32 [K], ascending: the vocabulary of the training loss; empty: the whole of the model's.
        digest: hex SHA-256 over names, shapes and little-endian numbers.
    """

    def __init__(self, modules: Mapping[str, Directions], tokens: NDArray[np.int32] | None = None) -> None:
        """
        Raises:
            UserError: there is no map, a number is not finite, shapes do not fit, or tokens are not ascending.
        """
        self.modules = dict(sorted(modules.items()))
        self.tokens = np.zeros(0, dtype=np.int32) if tokens is None else np.asarray(tokens, dtype=np.int32)
        self._check()
        content = hashlib.sha256(b"cotune/basis/v1")
        for name, array in sorted(self._arrays().items()):
            content.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            content.update(np.ascontiguousarray(array).tobytes())
        self.digest = content.hexdigest()

    @property
    def moved(self) -> int:
        """Tokens whose logits a core moves: the most directions of outputs that any map has; 0 where none has some."""
        return max(0 if given.outputs is None else given.outputs.shape[1] for given in self.modules.values())

    @property
    def started(self) -> bool:
        """Whether training begins where public rows lead to, and not at the base model."""
        return any(given.start is not None for given in self.modules.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Basis) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Basis({self.digest[:12]}..., {', '.join(self.modules)})"

    def save(self, path: Path) -> None:
        """Write safetensors, atomically."""
        atomic.write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in self._arrays().items()}))

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        arrays: dict[str, NDArray[np.generic]] = {_TOKENS: self.tokens.astype("<i4")}
        for name, directions in self.modules.items():
            arrays[name + _INPUTS] = directions.inputs.astype("<f4")
            if directions.outputs is not None:
                arrays[name + _OUTPUTS] = directions.outputs.astype("<f4")
            if directions.start is not None:
                arrays[name + _START] = directions.start.astype("<f4")
        return arrays

    def _check(self) -> None:
        if not self.modules:
            raise _unusable("it has no map")
        if not all(_MODULE.fullmatch(name) for name in self.modules):
            raise _unusable("a map's name is none")
        if len(self.tokens) > _MOST_TOKENS:
            raise _unusable(f"{len(self.tokens)} tokens")
        for name, directions in self.modules.items():
            for matrix in (directions.inputs, directions.outputs, directions.start):
                if matrix is not None and (matrix.ndim != 2 or 0 in matrix.shape or not np.isfinite(matrix).all()):
                    raise _unusable(f"{name[:80]}: not finite numbers in two dimensions")
        if len(self.tokens) and (self.tokens[0] < 0 or (np.diff(self.tokens) <= 0).any()):
            raise _unusable("its tokens are not ascending")


def load_basis(path: Path) -> Basis:
    """Read what `Basis.save` wrote.

    Raises:
        UserError: it is missing, larger than 256 MiB, or not a basis.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} is larger than 256 MiB", "get the basis from who drafted the charter")
        arrays = load(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "get it from who drafted the charter") from None
    except (SafetensorError, struct.error, ValueError, KeyError):
        raise _unusable(f"{path} is not a safetensors file") from None
    tokens = arrays.pop(_TOKENS, np.zeros(0, dtype=np.int32))
    names = {name.removesuffix(_INPUTS) for name in arrays if name.endswith(_INPUTS)}
    known = {name + end for name in names for end in (_INPUTS, _OUTPUTS, _START)}
    if set(arrays) - known or tokens.dtype != np.int32 or tokens.ndim != 1:
        raise _unusable(f"{path} holds something else")
    if any(array.dtype != np.float32 for array in arrays.values()):
        raise _unusable(f"{path} holds numbers other than float32")
    modules = {
        name: Directions(arrays[name + _INPUTS], arrays.get(name + _OUTPUTS), arrays.get(name + _START))
        for name in names
    }
    return Basis(modules, tokens)


def _unusable(what: str) -> UserError:
    return UserError(f"the basis is not usable: {what}", "make it again, or get it from who drafted the charter")
