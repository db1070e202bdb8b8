"""A basis from public text: what the frozen directions of an adapter form are made of, and how.

Where the activations' constant part is left in, it eats the clip: one pays for the norm of the features, not for how
they differ (Sun et al., DPSGD-F, ICLR 2024; Cond-DP, 2026). So V looks at the leading principal components of a map's
inputs at the positions where an answer is predicted, with the mean directions taken out, mildly whitened. U moves the
logits of the answers' tokens one by one: it is the pseudo-inverse of their mean Jacobian. All of it follows from the
base model and public rows, on one machine to the bit and elsewhere to last digits: the charter names the digest.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import UserError
from .adapter import adapted_maps
from .base import BaseModel
from .basis import Basis, Directions
from .forward import FullForward
from .head import Head
from .peft_files import LoraSettings
from .tiles import Row, Shapes, Tile, at_answers, collate, tiles

SHRINKAGE: Final = 0.1
"""Of the covariance, towards a multiple of the identity: rare directions are not trusted."""

_TILE_TOKENS: Final = 1024
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class BasisRecipe:
    """How a basis is made of public rows.

    Attributes:
        whitening: directions are scaled by eigenvalue ** -whitening, 0 (not at all) to 0.5 (equal variances).
        vocabulary: tokens of the training loss: the answers' and the likeliest at their positions; 0: all.
    """

    whitening: float
    vocabulary: int


@dataclass(frozen=True, eq=False)
class _Seen:
    """What public rows show of one map.

    Attributes:
        first, later: float64 [n, in], inputs at the first and at later answer positions.
        jacobian: float64 [answer tokens, out], mean over rows.
    """

    first: Numbers
    later: Numbers
    jacobian: Numbers


def make_basis(
    base: BaseModel,
    lora: LoraSettings,
    rows: Sequence[Row],
    recipe: BasisRecipe,
    progress: Callable[[int, int], None] | None = None,
) -> Basis:
    """The basis of a form, from public rows.

    Args:
        base: without an adapter.
        lora: form, rank (directions of inputs), targets and layers.
        rows: encoded public rows; of their answers only the tokens count, as a set, not which row has which.
        recipe: how.
        progress: called with (rows done, in all).

    Returns:
        Directions of every adapted map, and for form "core" of its outputs, one for each token of the answers.

    Raises:
        UserError: fewer rows than directions.
    """
    maps = adapted_maps(base, lora)
    most = min(len(rows), *(_inputs(module) - 2 for module in maps.values()))
    if lora.rank > most:
        raise UserError(
            f"{len(rows)} public rows make no {lora.rank} directions of {next(iter(maps))}",
            f"give more public text, or set model.lora.rank to {most} or less",
        )
    answers = sorted({int(token) for row in rows for token in row.tokens[row.answer_start :]})
    seen, likely = _look(base, maps, rows, answers if lora.form == "core" else [], progress)
    modules = {
        path: Directions(
            _input_directions(found, lora.rank, recipe.whitening),
            np.linalg.pinv(found.jacobian).astype(np.float32) if lora.form == "core" else None,
        )
        for path, found in seen.items()
    }
    if not 0 < recipe.vocabulary < len(likely):
        return Basis(modules)
    likely[answers] = np.inf
    kept = np.argsort(-likely, kind="stable")[: max(recipe.vocabulary, len(answers))]
    return Basis(modules, sorted(kept.tolist()))


def random_basis(base: BaseModel, lora: LoraSettings, outputs: int, seed: int) -> Basis:
    """Directions by chance, where there is no text: entries of variance 1 / inputs, the same on every machine.

    Args:
        outputs: u of form "core". seed: 0 to 2^128 - 1.
    """
    words = np.random.Philox(key=seed)

    def drawn(shape: tuple[int, int], inputs: int) -> NDArray[np.float32]:
        uniform = (words.random_raw(shape[0] * shape[1]) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return ((2.0 * uniform - 1.0) * np.sqrt(3.0 / inputs)).astype(np.float32).reshape(shape)

    modules = {}
    for path, module in adapted_maps(base, lora).items():
        ins = _inputs(module)
        outs = _outputs(module)
        given = drawn((lora.rank, ins), ins)
        modules[path] = Directions(given, drawn((outs, outputs), outputs) if lora.form == "core" else None)
    return Basis(modules)


def _inputs(module: Any) -> int:
    """Of a linear map, or of transformers' Conv1D, which is stored the other way round."""
    return int(module.weight.shape[1] if isinstance(module, nn.Linear) else module.weight.shape[0])


def _outputs(module: Any) -> int:
    return int(module.weight.numel()) // _inputs(module)


def _look(
    base: BaseModel,
    maps: dict[str, nn.Module],
    rows: Sequence[Row],
    answers: Sequence[int],
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, _Seen], NDArray[np.float64]]:
    """What rows show of every map, and the summed probability [vocabulary] of each token at answer positions."""
    context = getattr(base.model.config, "max_position_embeddings", None)
    shapes = [Shapes(_TILE_TOKENS, context=context).of(row) for row in rows]
    inputs: dict[str, list[torch.Tensor]] = {path: [] for path in maps}
    jacobians = {path: np.zeros((len(answers), _outputs(module))) for path, module in maps.items()}
    places: list[torch.Tensor] = []
    likely = np.zeros(int(base.model.get_output_embeddings().weight.shape[0]))
    forward, done = FullForward(base.model), 0
    few = Head(base.model, np.array(answers, dtype=np.int32)) if answers else None
    for shape, members in tiles([[row] for row in range(len(rows))], shapes):
        tile = collate([rows[row] for _, row in members], shape, base.model.device)
        real = tile.real[: len(members)]
        with _watched(maps, bool(answers)) as (entered, left):
            hidden = at_answers(forward(tile.inputs), tile)[: len(members)]
            some = None if few is None else few.logits(hidden[:, 0]).float()
        with torch.no_grad():
            likely += forward.head(hidden[real]).float().softmax(-1).sum(0).double().cpu().numpy()
        places.append(torch.arange(shape.slots)[None].expand(len(members), -1)[real.cpu()])
        for path in maps:
            inputs[path].append(at_answers(entered[path], tile)[: len(members)][real].double().cpu())
        for column in range(len(answers)):
            assert some is not None
            found = torch.autograd.grad(some[:, column].sum(), list(left.values()), retain_graph=True)
            for path, gradient in zip(left, found, strict=True):
                jacobians[path][column] += _at_first(gradient, tile, len(members))
        done += len(members)
        if progress is not None:
            progress(done, len(rows))
    first = torch.cat(places) == 0
    return {
        path: _Seen(every[first].numpy(), every[~first].numpy(), jacobians[path] / len(rows))
        for path, parts in inputs.items()
        for every in [torch.cat(parts)]
    }, likely


def _at_first(gradients: torch.Tensor, tile: Tile, rows: int) -> Numbers:
    """The sum [out] over rows of what is at the first answer position."""
    found: Numbers = at_answers(gradients.float(), tile)[:rows, 0].double().sum(0).cpu().numpy()
    return found


@contextmanager
def _watched(maps: dict[str, nn.Module], outputs: bool) -> Any:
    """The inputs of maps, and where asked their outputs with a gradient, of the forward passes within it."""
    entered: dict[str, torch.Tensor] = {}
    left: dict[str, torch.Tensor] = {}

    def watch(path: str) -> Callable[..., torch.Tensor | None]:
        def hook(_module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            entered[path] = args[0].detach()
            if not outputs:
                return None
            left[path] = output.detach() if not output.requires_grad else output
            if not left[path].requires_grad:
                left[path].requires_grad_()
            return left[path]

        return hook

    handles = [module.register_forward_hook(watch(path)) for path, module in maps.items()]
    try:
        with torch.set_grad_enabled(outputs):
            yield entered, left
    finally:
        for handle in handles:
            handle.remove()


def _input_directions(seen: _Seen, count: int, whitening: float) -> NDArray[np.float32]:
    """V, float32 [count, in]: orthogonal to the mean directions, of mean feature norm 1 at first positions."""
    means = [seen.first.mean(0), *([seen.later.mean(0)] if len(seen.later) else [])]
    constant = np.linalg.qr(np.stack(means).T)[0].T
    free = seen.first - (seen.first @ constant.T) @ constant
    centered = free - free.mean(0)
    covariance = centered.T @ centered / len(centered)
    covariance += SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(-values)[:count]
    chosen = vectors[:, order]
    chosen *= np.sign(chosen[np.abs(chosen).argmax(0), np.arange(len(order))])  # a sign is nobody's choice
    directions = (chosen * values[order] ** -whitening).T
    directions -= (directions @ constant.T) @ constant
    scale = np.linalg.norm(seen.first @ directions.T, axis=1).mean()
    return (directions / scale).astype(np.float32)
