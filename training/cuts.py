"""Where a model is cut between what is frozen, and computed once for a data set, and what a step computes.

Two cuts. Before a layer: everything from the first trained layer on is computed in each step, from the hidden states
that enter it. Inside the last layer, where all trained maps lie behind its attention: no other position than the
answers' is ever read behind that attention, and it is frozen. So three parts are kept of each answer position: what
enters the layer, what its attention gives, and, where one map alone is trained, what enters that map. A step then needs
no attention, no prompt and, for a map like down_proj, none of the maps before it.

Which parts of a layer do what is not known of every family: a cut counts only where it repeats the full forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import nn
from transformers import Cache, PreTrainedModel

from ..errors import UserError
from .forward import FullForward, StatesBelow, TopForward, behind, close, known_forms
from .layers import backbone, inputs_of, slot, unsupported
from .prefix import FAILURES

_ATTENTIONS: Final = ("self_attn", "attn", "attention", "self_attention")


class Below(Protocol):
    """The frozen side of a cut: token ids [B, T] to parts side by side [B, T, sum of widths], behind `past`."""

    @property
    def layer(self) -> int: ...
    @property
    def widths(self) -> tuple[int, ...]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def forms(self) -> dict[tuple[object, ...], Any]: ...
    def __call__(self, inputs: torch.Tensor, past: Cache | None = None) -> torch.Tensor: ...


class Above(Protocol):
    """The trained side: [B, T, width] to final hidden states [B, T, hidden]."""

    def __call__(self, states: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True, eq=False)
class Cut:
    """Both sides of a model.

    Attributes:
        below: frozen. above: trained.
        answers_only: what `above` gets, and gives, are answer positions side by side, whatever lies between them.
    """

    below: Below
    above: Above
    answers_only: bool


def find_cut(model: PreTrainedModel, modules: Sequence[str], layer: int, inputs: torch.Tensor, tolerance: float) -> Cut:
    """The latest cut that repeats the full forward pass.

    Args:
        model: the causal language model, at an adapter that is not zero where it has one.
        modules: paths of all trained maps.
        layer: the first one that is trained, above 0.
        inputs: token ids [1, T] to try it on.

    Raises:
        UserError: naming the family, for which none does.
    """
    for only in (True, False):
        inside = _inside_last_layer(model, modules, only)
        if inside is not None and _repeats(model, inside, inputs, tolerance):
            return inside
    return cut_before(model, layer, inputs, tolerance)


def cut_before(model: PreTrainedModel, layer: int, inputs: torch.Tensor, tolerance: float) -> Cut:
    """The cut before a layer.

    Raises:
        UserError: naming the family, whose layers from there on do not repeat the full forward pass.
    """
    try:
        cut = Cut(StatesBelow(model, layer), TopForward(model, layer), False)
    except NotImplementedError:
        raise _cannot_cache(model) from None
    if not _repeats(model, cut, inputs, tolerance):
        raise _cannot_cache(model)
    return cut


def _repeats(model: PreTrainedModel, cut: Cut, inputs: torch.Tensor, tolerance: float) -> bool:
    """Where only answers pass, positions with gaps between them: what also mixes positions behind the cut shows."""
    with torch.no_grad():
        try:
            states, expected = cut.below(inputs), FullForward(model)(inputs)
            if cut.answers_only:
                some = [place for place in range(1, inputs.shape[1]) if place % 3 != 0]
                states, expected = states[:, some], expected[:, some]
            above = cut.above(states)
        except FAILURES:
            return False
        return close(above, expected, tolerance)


def _cannot_cache(model: PreTrainedModel) -> UserError:
    """The refusal of a family, by name."""
    family = getattr(model.config, "model_type", type(model).__name__)
    return UserError(
        f"model family {family!r} cannot start from cached hidden states", "set model.cache_features=false"
    )


def _inside_last_layer(model: PreTrainedModel, modules: Sequence[str], only: bool) -> Cut | None:
    """The cut behind the last layer's attention; with `only`, right before the one trained map."""
    last = len(slot(model)[2]) - 1
    layer = slot(model)[2][last]
    names = {id(module): name for name, module in layer.named_modules()}
    inner = [names.get(id(module)) for path, module in model.named_modules() if path in set(modules)]
    attention = next((name for name in _ATTENTIONS if isinstance(getattr(layer, name, None), nn.Module)), None)
    if attention is None or len(inner) != len(modules):
        return None
    if any(name is None or name.split(".")[0] == attention for name in inner):
        return None
    if not only:
        return _cut(model, last, attention, None)
    name = inner[0] or ""
    return _cut(model, last, attention, name) if len(inner) == 1 and name.count(".") == 1 else None


def _cut(model: PreTrainedModel, last: int, attention: str, entry: str | None) -> Cut | None:
    parts = _Parts(model, last, attention, entry)
    try:
        return Cut(PartsBelow(model, parts), PartsAbove(model, parts), True)
    except NotImplementedError:
        return None


class _Parts:
    """The modules of the last layer that matter here.

    Attributes:
        last: its number. layer: itself. attention: inside it.
        entry: the map whose input is kept, and the module right around it; None keeps none.
        outputs: how many things the attention gives; the first is the states. Known once it has run.
    """

    def __init__(self, model: PreTrainedModel, last: int, attention: str, entry: str | None) -> None:
        self.last = last
        self.layer: nn.Module = slot(model)[2][last]
        self.attention: nn.Module = getattr(self.layer, attention)
        self.around: nn.Module | None = self.layer.get_submodule(entry.split(".")[0]) if entry else None
        self.entry: nn.Module | None = self.layer.get_submodule(entry) if entry else None
        hidden = int(model.config.hidden_size)
        base: Any = getattr(self.entry, "base_layer", self.entry)
        self.widths = (hidden, hidden) if base is None else (hidden, hidden, inputs_of(base))
        self.outputs: int | None = None


class _ReachedError(Exception):
    """Ends a forward pass where all that is kept is known."""


class PartsBelow:
    """Token ids [B, T] to [B, T, width]: the parts that are kept of each position, side by side."""

    def __init__(self, model: PreTrainedModel, parts: _Parts) -> None:
        self._model = model
        self._parts = parts
        self.layer = parts.last
        self.widths = parts.widths
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.vocabulary = int(model.config.vocab_size)
        self.forms = known_forms(model)

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, past: Cache | None = None) -> torch.Tensor:
        """Token ids [B, T] to parts [B, T, width], behind what `past` holds."""
        kept: list[torch.Tensor] = []

        def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(args[0] if args else kwargs["hidden_states"])

        def attended(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._parts.outputs = len(output) if isinstance(output, tuple) else None
            kept.append(output[0] if isinstance(output, tuple) else output)
            if self._parts.entry is None:
                raise _ReachedError

        def reached(_module: nn.Module, args: tuple[Any, ...]) -> None:
            kept.append(args[0])
            raise _ReachedError

        handles = [
            self._parts.layer.register_forward_pre_hook(enter, with_kwargs=True),
            self._parts.attention.register_forward_hook(attended),
        ]
        if self._parts.entry is not None:
            handles.append(self._parts.entry.register_forward_pre_hook(reached))
        try:
            backbone(self._model)(input_ids=inputs, **behind(past, inputs))
        except _ReachedError:
            return torch.cat(kept, dim=-1)
        finally:
            for handle in handles:
                handle.remove()
        raise unsupported(self._model, "its last layer is never called")


class PartsAbove:
    """Parts [B, S, width] of answer positions to final hidden states [B, S, hidden]."""

    def __init__(self, model: PreTrainedModel, parts: _Parts) -> None:
        self._top = TopForward(model, parts.last)
        self._parts = parts

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """The last layer from its attention on, with what was kept in the place of what it would compute."""
        entering, attended, *inner = torch.split(states, list(self._parts.widths), dim=-1)
        with _given(self._parts, attended, inner):
            return self._top(entering)


@contextmanager
def _given(parts: _Parts, attended: torch.Tensor, inner: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within it, attention gives what was kept, and what surrounds the trained map goes straight to it."""

    def attend(*_args: Any, **_kwargs: Any) -> Any:
        return attended if parts.outputs is None else (attended, *[None] * (parts.outputs - 1))

    def around(*_args: Any, **_kwargs: Any) -> Any:
        assert parts.entry is not None
        return parts.entry(inner[0])

    parts.attention.forward = attend  # type: ignore[method-assign]
    if parts.around is not None:
        parts.around.forward = around  # type: ignore[method-assign]
    try:
        yield
    finally:
        del parts.attention.forward
        if parts.around is not None:
            del parts.around.forward
