"""Which way to compute gradients is right on this model and this machine: found on synthetic rows, before training.

Right are gradients that equal an autograd loop, and that do not depend on which other rows are computed with a row. The
choice depends on nothing that is private: no row of the data set has a part in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from ..adapter.schema import AdapterSchema
from ..errors import UserError, first_line
from .adapter import set_flat
from .company import adapters, gains_of, in_company
from .cuts import Cut
from .flat_buffer import FlatBuffer
from .forward import NARROWED, TOLERANCE, check_head
from .head import Head
from .hooks import HookGradients
from .per_row import RowGradients, equals_loop
from .per_unit import unit_means
from .tile_losses import TileLosses
from .tiles import LEAST_SLOTS, LENGTH_STEP, Shape, Shapes

_EXTENTS: Final = ((LENGTH_STEP, LEAST_SLOTS), (3 * LENGTH_STEP, 2 * LEAST_SLOTS))
"""Inputs and answer tokens of the synthetic rows: two shapes."""

_PROMPT: Final = 12
"""Tokens before the answer of a synthetic row of which answers alone pass through."""

_FAILURES: Final = (TypeError, AttributeError, IndexError, RuntimeError)
_OTHERS: Final = "choose a model of another family or other LoRA targets"
_FOREIGN: Final = (*_FAILURES, ValueError, LookupError)


@dataclass(frozen=True, eq=False)
class Way:
    """How gradients are made.

    Attributes:
        gradients: of the rows of a tile.
        alone: whether each row gets a tile of its own, where its company would show.
        parts: of the last layer that run at the answers' positions only.
    """

    gradients: RowGradients
    alone: bool
    parts: Sequence[str]

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self.gradients.name + (", each row alone" if self.alone else "")


@dataclass(frozen=True, eq=False)
class _Synthetic:
    """A random row."""

    tokens: NDArray[np.int32]
    answer_start: int


class _SyntheticStates:
    """The lower side of a cut, each row's computed by itself."""

    def __init__(self, cut: Cut, rows: Sequence[_Synthetic]) -> None:
        inputs = (torch.from_numpy(row.tokens[None, :-1].astype(np.int64)).to(cut.below.device) for row in rows)
        self._states = [cut.below(tokens)[0] for tokens in inputs]
        if cut.answers_only:
            self._states = [states[row.answer_start - 1 :] for row, states in zip(rows, self._states, strict=True)]

    def tile(self, rows: Sequence[int], shape: Shape, device: torch.device) -> torch.Tensor:
        first = self._states[0]
        padded = torch.zeros(
            shape.rows, shape.positions or shape.slots, first.shape[1], dtype=first.dtype, device=device
        )
        for place, row in enumerate(rows):
            padded[place, : len(self._states[row])] = self._states[row]
        return padded


def sound_way(model: PeftModel, schema: AdapterSchema, cut: Cut | None, head: Head, limits: Shapes, hooks: bool) -> Way:
    """The fastest way that is right.

    Args:
        model: with the adapter; its values are overwritten.
        schema: of the adapter.
        cut: where cached states enter; None where there are none.
        head: what the loss is taken over.
        limits: of the shapes in use.
        hooks: go by Opacus' hooks.

    Raises:
        UserError: naming the model's family: none is right, its head differs, or it fails on the synthetic rows.
    """
    try:
        return _found_way(model, schema, cut, head, limits, hooks)
    except torch.OutOfMemoryError:
        raise
    except _FOREIGN as error:  # no record has a part in it: it is the model's own code, or what PEFT makes of it
        family = model.get_base_model().config.model_type
        raise UserError(f"model family {family!r} fails on random rows ({first_line(error)})", _OTHERS) from error


def _found_way(
    model: PeftModel, schema: AdapterSchema, cut: Cut | None, head: Head, limits: Shapes, hooks: bool
) -> Way:
    base: Any = model.base_model.model
    tolerance = TOLERANCE[base.dtype]
    _random(model, schema)
    data = [_rows(base, head, limits, *extent) for extent in _EXTENTS]
    rows = [row for part in data for row in part]
    first = data[0][0]
    inputs = torch.from_numpy(first.tokens[None, :-1].astype(np.int64)).to(base.device)
    check_head(base, inputs, tolerance)
    losses = TileLosses(base, rows, head, cut, None if cut is None else _SyntheticStates(cut, rows))
    if not limits.answers_only:
        losses.parts = _parts(losses, limits.of(first), tolerance)
    why = ""
    for kind in (HookGradients,) if hooks else (FlatBuffer, HookGradients):
        way = Way(kind(model, schema), False, losses.parts)
        _random(model, schema)
        if not _equals_loop(way, losses, limits.of(first), tolerance):
            why = f"do not equal a loop over its rows ({way.gradients.name})"
            continue
        for alone in (False, True):
            if _sound(way := replace(way, alone=alone), model, schema, losses, data, limits):
                return way
        why = f"depend on what else is computed ({way.gradients.name})"
    raise UserError(
        f"per-unit gradients of model family {base.config.model_type!r} {why}",
        _OTHERS,
    )


def _random(model: PeftModel, schema: AdapterSchema) -> None:
    """Not the first adapter: there B is zero and hides A."""
    set_flat(model, (0.02 * np.random.default_rng(1).standard_normal(schema.dimension)).astype(np.float32))


def _rows(base: Any, head: Head, limits: Shapes, inputs: int, answer: int) -> list[_Synthetic]:
    """One row more than a tile holds, all of one shape: inputs and answer of these lengths, and somewhat shorter."""
    generator = np.random.default_rng(inputs)
    if limits.answers_only:
        inputs = answer + _PROMPT  # what stands before an answer is in its states, and nowhere else
    longest = min(inputs, limits.context or inputs)
    rows: list[_Synthetic] = []
    while not rows or len(rows) <= limits.of(rows[0]).rows:
        length = longest - len(rows) % 7 if longest > 14 else longest
        tokens = generator.integers(1, int(base.config.vocab_size), length + 1, dtype=np.int32)
        start = len(tokens) - max(1, answer - len(rows) % max(1, answer // 2))
        tokens[start:] = head.drawn(generator, len(tokens) - start)
        rows.append(_Synthetic(tokens, start))
    return rows


def _parts(losses: TileLosses, shape: Shape, tolerance: float) -> tuple[str, ...]:
    """The most of the last layer that may run at the answers only; a family where losses would change goes without."""
    few = range(3)
    with torch.no_grad():
        whole = losses(few, shape)
        for parts in NARROWED:
            losses.parts = parts
            try:
                narrow = losses(few, shape)
            except _FAILURES:
                continue
            if bool((whole - narrow).abs().max() <= tolerance * whole.abs().max()):
                return parts
    return ()


def _equals_loop(way: Way, losses: TileLosses, shape: Shape, tolerance: float) -> bool:
    """In a tile, and alone without padding: a model that attends to padding or to other rows shows here too."""

    def alone(row: int) -> torch.Tensor:
        tokens, start = losses.rows[row].tokens, losses.rows[row].answer_start
        return losses([row], Shape(len(tokens) - 1 if shape.positions else 0, len(tokens) - start, 1)).sum()

    return equals_loop(way.gradients, lambda: losses(range(3), shape), alone, 3, tolerance)


def _sound(
    way: Way,
    model: PeftModel,
    schema: AdapterSchema,
    losses: TileLosses,
    data: Sequence[list[_Synthetic]],
    limits: Shapes,
) -> bool:
    """Whether no row's company shows, in each part of the data at each adapter."""
    shapes = [limits.of(row) for part in data for row in part]

    def compute(rows: Sequence[int], shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
        return way.gradients.of(lambda: losses(rows, shape))

    def means(rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return unit_means([[row] for row in rows], shapes, compute, way.alone, schema.dimension)

    for number, adapter in enumerate(adapters(schema, gains_of(model, schema))):
        set_flat(model, adapter)
        start = 0
        # The first, ordinary adapter shows the least: the other shapes go without it.
        for part in data if number else data[:1]:
            if not in_company(means, range(start, start + len(part))):
                return False
            start += len(part)
    return True
