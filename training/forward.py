"""A causal language model cut at the first trained layer: what lies below it, and from it to the logits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn
from transformers import Cache, PreTrainedModel

from .layers import backbone, head_logits, slot, unsupported
from .tiles import Tile, at_answers, from_answers

TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 1e-1}
"""How far two ways to the same result may differ: reordered sums, relative to the largest value."""


class _ReachedError(Exception):
    """Ends a forward pass where its last useful result is known."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class StatesBelow:
    """The frozen layers below `layer`: from token ids to the hidden states that enter it."""

    def __init__(self, model: PreTrainedModel, layer: int) -> None:
        self._model = model
        self._first = slot(model)[2][layer]
        self.layer = layer
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.widths = (int(model.config.hidden_size),)
        self.vocabulary = int(model.config.vocab_size)
        self.forms = known_forms(model)

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, past: Cache | None = None) -> torch.Tensor:
        """Token ids [B, T] to hidden states [B, T, hidden], behind what `past` holds."""

        def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _ReachedError(args[0] if args else kwargs["hidden_states"])

        handle = self._first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            backbone(self._model)(input_ids=inputs, **behind(past, inputs))
        except _ReachedError as reached:
            return reached.hidden
        finally:
            handle.remove()
        raise unsupported(self._model, "its first trained layer is never called")


def known_forms(model: PreTrainedModel) -> dict[tuple[object, ...], Any]:
    """What was found of how rows may pass through the model's frozen layers: see `blocks.known_form`."""
    known: dict[tuple[object, ...], Any] = vars(model).setdefault("_cotune_forms", {})
    return known


def behind(past: Cache | None, inputs: torch.Tensor) -> dict[str, Any]:
    """What a backbone is told of what stands before its inputs [B, T]."""
    if past is None:
        return {"use_cache": False}
    start = past.get_seq_length()
    positions = torch.arange(start, start + inputs.shape[1], device=inputs.device)[None]
    return {"use_cache": True, "past_key_values": past, "position_ids": positions}


class FullForward:
    """Token ids to final hidden states, through all layers."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Token ids [B, T] to final hidden states [B, T, hidden]."""
        return backbone(self._model)(input_ids=inputs, use_cache=False).last_hidden_state  # type: ignore[no-any-return]

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Final hidden states [n, hidden] to logits [n, vocabulary]."""
        return head_logits(self._model, hidden)


class TopForward:
    """Hidden states that enter `layer` to final hidden states, through the layers from there on.

    While it runs, the backbone holds a shorter list of the very same layers, so parameters keep the names that they
    have in the full model. The first layer gets the cached states themselves, whatever the family does to embeddings on
    their way in.
    """

    def __init__(self, model: PreTrainedModel, layer: int) -> None:
        self._model = model
        self._body, self._name, layers = slot(model)
        self._top = nn.ModuleList(list(layers)[layer:])
        types = getattr(model.config, "layer_types", None)
        # Some families look a layer's attention type up by its place in the list.
        if types and list(types[layer:]) != list(types[: len(self._top)]):
            raise NotImplementedError("attention types that are looked up by a layer's place")

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """States [B, T, hidden] to final hidden states [B, T, hidden]."""
        with self._shortened(states):
            hidden = self._body(inputs_embeds=states, use_cache=False).last_hidden_state
        return hidden  # type: ignore[no-any-return]

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Final hidden states [n, hidden] to logits [n, vocabulary]."""
        return head_logits(self._model, hidden)

    @contextmanager
    def _shortened(self, states: torch.Tensor) -> Iterator[None]:
        def enter(
            _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

        whole = getattr(self._body, self._name)
        handle = self._top[0].register_forward_pre_hook(enter, with_kwargs=True)
        setattr(self._body, self._name, self._top)
        try:
            yield
        finally:
            setattr(self._body, self._name, whole)
            handle.remove()


NARROWED: Final = (
    ("self_attn.q_proj", "self_attn.o_proj", "attn.c_proj", "attention.dense", "mlp"),
    ("mlp",),
    (),
)
"""Parts of the last layer that need no more than the answers' positions: the most that a family allows is taken."""


@contextmanager
def answers_only(model: PreTrainedModel, tile: Tile, parts: Sequence[str]) -> Iterator[None]:
    """Within it, these parts of the last decoder layer run only where an answer token is predicted; zero elsewhere.

    No other position of the last layer is ever read, so losses and gradients stay the same while most of that layer's
    work is saved: prompts are long and answers short. The caller must not read other positions.
    """

    def narrow(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (at_answers(args[0], tile), *args[1:])

    def widen(_module: nn.Module, _args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return from_answers(output, tile)

    last = dict(slot(model)[2][-1].named_modules()) if parts else {}
    handles = []
    for part in parts:
        if part in last:
            handles += [last[part].register_forward_pre_hook(narrow), last[part].register_forward_hook(widen)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_head(model: PreTrainedModel, inputs: torch.Tensor, tolerance: float) -> None:
    """Refuse a family whose logits are not what `head_logits` makes of its final hidden states.

    Raises:
        UserError: naming the family.
    """
    with torch.no_grad():
        full = FullForward(model)
        if not close(full.head(full(inputs)), model(input_ids=inputs, use_cache=False).logits, tolerance):
            raise unsupported(model, "its head differs from hidden states times output embeddings")


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Whether the largest difference is within `tolerance` of the largest magnitude."""
    if one.shape != other.shape:
        return False
    return bool((one.float() - other.float()).abs().max() <= tolerance * other.float().abs().max())
