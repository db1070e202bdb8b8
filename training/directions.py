"""A basis from public text: what the frozen directions of an adapter form are made of, and how.

Where the activations' constant part is left in, it eats the clip: one pays for the norm of the features, not for how
they differ (Sun et al., DPSGD-F, ICLR 2024; Cond-DP, 2026). So V looks at the leading principal components of a map's
inputs at the positions where an answer is predicted, with the mean directions taken out, mildly whitened, and with the
directions taken out that are large in other text (`elsewhere`), which the adapter is to leave alone. U moves the logits
of the answers' tokens one by one: it is the pseudo-inverse of their mean Jacobian. All of it follows from the base
model and public rows, on one machine to the bit and elsewhere to last digits: the charter names the digest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..adapter.basis import Basis, Directions
from ..adapter.peft_files import LoraSettings
from ..errors import UserError
from .adapter import adapted_maps
from .base import BaseModel
from .elsewhere import elsewhere
from .layers import inputs_of
from .public_rows import Numbers, Seen, look
from .tiles import Row

SHRINKAGE: Final = 0.1
"""Of the covariance, towards a multiple of the identity: rare directions are not trusted."""
_POSITIONS: Final = 4
"""Positions of other text for each direction that is spared."""


@dataclass(frozen=True)
class BasisRecipe:
    """How a basis is made of public rows.

    Attributes:
        whitening: directions are scaled by eigenvalue ** -whitening, 0 (not at all) to 0.5 (equal variances).
        spared: so large a share of a map's inputs, 0 to 0.5, are directions of other text that V does not look along.
        vocabulary: tokens of the training loss: the answers' and the likeliest at their positions; 0: all.
        first_only: look at the first token of each answer alone, which is where a label is told; else at all of them.
    """

    whitening: float
    spared: float
    vocabulary: int
    first_only: bool = True


def make_basis(
    base: BaseModel,
    lora: LoraSettings,
    rows: Sequence[Row],
    answers: Sequence[int],
    recipe: BasisRecipe,
    progress: Callable[[int, int], None] | None = None,
) -> Basis:
    """The basis of a form, from public rows.

    Args:
        base: without an adapter.
        lora: form, rank (directions of inputs), targets and layers.
        rows: encoded public rows; which of them has which answer means nothing.
        answers: the tokens of all answers that a model shall learn to write, ascending.
        recipe: how.
        progress: called with (tokens done, in all).

    Returns:
        Directions of every adapted map, and for form "core" of its outputs, one for each token of the answers.

    Raises:
        UserError: the rows, or a map's inputs, have no room for so many directions.
    """
    maps = adapted_maps(base, lora)
    if lora.rank >= len(rows):
        raise UserError(
            f"{len(rows)} public rows make no {lora.rank} directions",
            f"give more public text, or set model.lora.rank to {len(rows) - 1} or less",
        )
    path, inputs = min(((path, inputs_of(module)) for path, module in maps.items()), key=lambda pair: pair[1])
    room = inputs - 2 - int(recipe.spared * inputs)
    if lora.rank > room:
        raise UserError(
            f"{path} has {inputs} inputs, too few for {lora.rank} directions",
            f"set model.lora.rank to {room} or less",
        )
    others = elsewhere(base, maps, rows) if recipe.spared else {}
    seen, likely = look(base, maps, rows, answers if lora.form == "core" else [], progress)
    modules = {
        path: Directions(
            _input_directions(found, others.get(path), lora.rank, recipe),
            np.linalg.pinv(found.jacobian).astype(np.float32) if lora.form == "core" else None,
        )
        for path, found in seen.items()
    }
    if not 0 < recipe.vocabulary < len(likely):
        return Basis(modules)
    likely[list(answers)] = np.inf
    kept = np.argsort(-likely, kind="stable")[: max(recipe.vocabulary, len(answers))]
    return Basis(modules, np.sort(kept).astype(np.int32))


def _input_directions(seen: Seen, other: Numbers | None, count: int, recipe: BasisRecipe) -> NDArray[np.float32]:
    """V, float32 [count, in], of mean feature norm 1 where it looks.

    It is orthogonal to the mean directions, and to the leading ones of other text.
    """
    inputs = seen.first if recipe.first_only else np.concatenate([seen.first, seen.later])
    means = [seen.first.mean(0), *([seen.later.mean(0)] if len(seen.later) else [])]
    if other is not None:
        # No more of them than some positions of the text share: the others are large in nothing.
        most = min(int(recipe.spared * inputs.shape[1]), len(other) // _POSITIONS)
        means += list(np.linalg.svd(other, full_matrices=False)[2][:most])
    constant = np.linalg.qr(np.stack(means).T)[0].T
    free = inputs - (inputs @ constant.T) @ constant
    centered = free - free.mean(0)
    covariance = centered.T @ centered / len(centered)
    covariance += SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(-values)[:count]
    chosen = vectors[:, order]
    chosen *= np.sign(chosen[np.abs(chosen).argmax(0), np.arange(len(order))])  # a sign is nobody's choice
    directions = (chosen * values[order] ** -recipe.whitening).T
    directions -= (directions @ constant.T) @ constant
    scale = np.linalg.norm(inputs @ directions.T, axis=1).mean()
    found: NDArray[np.float32] = (directions / scale).astype(np.float32)
    return found
