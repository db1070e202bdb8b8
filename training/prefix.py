"""The tokens that all rows begin with (chat header, system message, example turns), run through the frozen layers once.

A causal layer's states at these positions depend on nothing behind them. Kept are the states that enter the first
trained layer, and the keys and values of the layers below it, which each row's own tokens attend to.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from .forward import TOLERANCE

if TYPE_CHECKING:
    from .cuts import Below

_LEAST_TOKENS: Final = 4
_LEAST_SHARE: Final = 0.1
"""Of a mean row. Below either, the mask and the copied keys cost more than the prefix."""

FAILURES: Final = (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError, NotImplementedError)
"""What a family with another way of caching may raise; a lack of memory is among them."""


class _Keys(DynamicCache):  # type: ignore[misc]
    """Keys and values of the prefix, [1, heads, P, size] in each layer. Rows read them and leave nothing behind."""

    frozen = False

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Keys and values [B, heads, P + T, size] of rows behind the prefix."""
        if not self.frozen:
            return super().update(keys, values, layer_idx, *args, **kwargs)
        layer, rows = self.layers[layer_idx], len(keys)
        return (
            torch.cat([layer.keys.expand(rows, -1, -1, -1), keys], dim=-2),
            torch.cat([layer.values.expand(rows, -1, -1, -1), values], dim=-2),
        )


class PrefixedStates:
    """The lower side of a cut for rows that all begin with the same tokens.

    Attributes:
        below: the frozen side.
        length: P, tokens of the prefix; 0 is the plain computation.
        states: [P, width], at the prefix.
    """

    def __init__(self, below: "Below", prefix: NDArray[np.int32]) -> None:
        self.below = below
        self.length = len(prefix)
        self.states = torch.zeros(0, sum(below.widths), dtype=below.dtype, device=below.device)
        self._keys: _Keys | None = None
        if self.length:
            self._keys = _Keys()
            tokens = torch.from_numpy(prefix.astype(np.int64))[None].to(below.device)
            self.states = below(tokens, self._keys)[0]
            self._keys.frozen = True

    def own(self, inputs: torch.Tensor) -> torch.Tensor:
        """Token ids [B, T], prefix included, to states [B, T - P, width] behind it."""
        return self.below(inputs[:, self.length :], self._keys)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Token ids [B, T] to states [B, T, width], as `below` gives them."""
        own = self.own(inputs)
        return torch.cat([self.states.expand(len(own), -1, -1), own], dim=1) if self.length else own


def shared_length(rows: Sequence[NDArray[np.int32]]) -> int:
    """How many tokens all rows begin with, where it pays to treat them apart; else 0.

    Args:
        rows: the tokens of each row that enter the model.

    Guarantees: every row keeps a token of its own, so there is always one to run behind the prefix.
    """
    length = min((len(row) for row in rows), default=0) - 1
    for row in rows:
        differs = np.flatnonzero(row[: max(0, length)] != rows[0][: max(0, length)])
        length = int(differs[0]) if len(differs) else length
    worth = max(_LEAST_TOKENS, _LEAST_SHARE * sum(len(row) for row in rows) / max(1, len(rows)))
    return length if len(rows) > 1 and length >= worth else 0


def prefixed_states(
    below: "Below",
    rows: Sequence[NDArray[np.int32]],
    some: Callable[[PrefixedStates], torch.Tensor],
) -> PrefixedStates:
    """The frozen layers behind the rows' shared prefix, checked on some real rows against the plain computation.

    Args:
        below: the frozen layers.
        rows: the tokens of each row that enter the model.
        some: the states [B, T, width] of some rows, the shortest and the longest among them.

    Returns:
        The plain computation where nothing is shared, or where the family's states behind a prefix differ.
    """
    plain, length = PrefixedStates(below, rows[0][:0]), shared_length(rows)
    if not length:
        return plain
    try:
        prefixed = PrefixedStates(below, rows[0][:length])
        found = some(prefixed)
    except FAILURES:
        return plain
    return prefixed if alike(found, some(plain), TOLERANCE[below.dtype]) else plain


def alike(found: torch.Tensor, plain: torch.Tensor, tolerance: float) -> bool:
    """Position by position: a model's first tokens have states so large that they would hide all others' errors."""
    if found.shape != plain.shape:
        return False
    found, plain = found.float(), plain.float()
    return bool(((found - plain).norm(dim=-1) <= tolerance * plain.norm(dim=-1)).all())
