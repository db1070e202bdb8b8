"""What public rows show of linear maps: inputs where an answer is predicted, and what outputs move there."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import UserError
from .base import BaseModel
from .cuts import Cut, find_cut
from .features import cache_features
from .forward import TOLERANCE
from .head import Head
from .layers import decoder_layers, outputs_of
from .tile_losses import TileLosses
from .tiles import Row, Shapes, at_answers, tiles

_TILE_TOKENS: Final = 1024
Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Seen:
    """What rows show of one map.

    Attributes:
        first, later: float64 [n, in], inputs at the first and at later answer positions.
        jacobian: float64 [answer tokens, out]: how the map's output moves these tokens' logits at the first answer
            position, mean over rows.
    """

    first: Numbers
    later: Numbers
    jacobian: Numbers


def look(
    base: BaseModel,
    maps: Mapping[str, nn.Module],
    rows: Sequence[Row],
    answers: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Seen], Numbers]:
    """Run public rows through the model once.

    Args:
        base: without an adapter.
        maps: by path.
        rows: encoded.
        answers: tokens whose logits count; none: no Jacobian is taken.
        progress: called with (done, in all).

    Returns:
        What was seen of every map, and the summed probability [vocabulary] of each token at answer positions.
    """
    every = Head(base.model, np.zeros(0, dtype=np.int32))
    with _losses(base, maps, rows, every, progress) as (losses, only):
        inputs: dict[str, list[torch.Tensor]] = {path: [] for path in maps}
        jacobians = {path: np.zeros((len(answers), outputs_of(module))) for path, module in maps.items()}
        likely = np.zeros(int(base.model.get_output_embeddings().weight.shape[0]))
        some = Head(base.model, np.array(answers, dtype=np.int32))
        places: list[torch.Tensor] = []
        context = getattr(base.model.config, "max_position_embeddings", None)
        limits = Shapes(_TILE_TOKENS, context=context, answers_only=only)
        for shape, members in tiles([[row] for row in range(len(rows))], [limits.of(row) for row in rows]):
            numbers = [row for _, row in members]
            with watched(maps, bool(answers)) as (entered, left):
                hidden, tile = losses.at_answers(numbers, shape)
                hidden = hidden[: len(numbers)]
                logits = some.logits(hidden[:, 0]).float() if answers else None
            real = tile.real[: len(numbers)]
            at = (lambda states, tile=tile: states) if only else (lambda states, tile=tile: at_answers(states, tile))
            with torch.no_grad():
                likely += every.logits(hidden[real]).float().softmax(-1).sum(0).double().cpu().numpy()
            places.append(torch.arange(shape.slots)[None].expand(len(numbers), -1)[real.cpu()])
            for path in maps:
                inputs[path].append(at(entered[path])[: len(numbers)][real].double().cpu())
            for column in range(len(answers)):
                assert logits is not None
                found = torch.autograd.grad(logits[:, column].sum(), list(left.values()), retain_graph=True)
                for path, gradient in zip(left, found, strict=True):
                    moved = at(gradient.float())[: len(numbers), 0].double().sum(0)
                    jacobians[path][column] += moved.cpu().numpy()
    first = torch.cat(places) == 0
    return {
        path: Seen(whole[first].numpy(), whole[~first].numpy(), jacobians[path] / len(rows))
        for path, parts in inputs.items()
        for whole in [torch.cat(parts)]
    }, likely


@contextmanager
def _losses(
    base: BaseModel,
    maps: Mapping[str, nn.Module],
    rows: Sequence[Row],
    head: Head,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[TileLosses, bool]]:
    """The way through the model, from a cut on where the family has one; whether only answers pass through it."""
    cut = _cut(base, maps)
    if cut is None:
        yield TileLosses(base.model, rows, head), False
        return
    context = getattr(base.model.config, "max_position_embeddings", None)
    with tempfile.TemporaryDirectory() as folder:
        states = cache_features(Path(folder), cut, rows, base.digest, context, progress)
        yield TileLosses(base.model, rows, head, cut, states), cut.answers_only


def _cut(base: BaseModel, maps: Mapping[str, nn.Module]) -> Cut | None:
    inside = [{id(module) for module in layer.modules()} for layer in decoder_layers(base.model)]
    layer = min(number for number, own in enumerate(inside) for module in maps.values() if id(module) in own)
    if layer == 0:
        return None
    tokens = torch.arange(1, 17, device=base.model.device)[None]
    try:
        return find_cut(base.model, list(maps), layer, tokens, TOLERANCE[base.model.dtype])
    except UserError:
        return None


@contextmanager
def watched(
    maps: Mapping[str, nn.Module], outputs: bool = False
) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """The inputs of maps, and where asked their outputs with a gradient, of the forward pass within it."""
    entered: dict[str, torch.Tensor] = {}
    left: dict[str, torch.Tensor] = {}

    def watch(path: str) -> Callable[..., torch.Tensor | None]:
        def hook(_module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            entered[path] = args[0].detach()
            if not outputs:
                return None
            left[path] = output if output.requires_grad else output.detach().requires_grad_()
            return left[path]

        return hook

    handles = [module.register_forward_hook(watch(path)) for path, module in maps.items()]
    try:
        with torch.set_grad_enabled(outputs):
            yield entered, left
    finally:
        for handle in handles:
            handle.remove()
