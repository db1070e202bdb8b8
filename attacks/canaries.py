"""Gradient canaries: units whose gradient is one known direction, in the trainer's own private step.

Everything from the draw of the sample to the noise is the product's: `Trainer.private_sum` with its sampling, its
clipping, its sum and its noise. Only where a unit's gradient is computed does a canary hand in one of its own, ten
times longer than the clip norm, along a coordinate that no other canary uses. Whoever guesses sees every release, knows
the terms, and knows each canary's coordinate: as strong as the adversary whom the guarantee is about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.template import Example
from ..data.units import Units
from ..errors import UserError
from ..privacy.sampling import SystemRandomness
from ..privacy.terms import PrivacyTerms
from ..training.adapter import initial
from ..training.trainer import Trainer
from .subject import coordinates, lora, random_rows, tiny_base

ORDINARY_UNITS: Final = 16
"""Units with real gradients, in the same batches."""

_OVER_CLIP = 10.0
# Rows of each canary: a step that treats rows as units shows.
_ROWS = 4
_PHYSICAL_TOKENS = 4096
_RANK = 4
# Of the claimed noise: below it an estimate of the noise counts as this.
_LEAST_SPREAD = 0.01


@dataclass(frozen=True, eq=False)
class Observed:
    """What the guesser works with.

    Attributes:
        joined: [m], which canaries were in the data: the truth.
        seen: float64 [steps, m], each release along each canary's direction, in clip norms.
    """

    joined: NDArray[np.bool_]
    seen: NDArray[np.float64]


class CanaryTrainer(Trainer):
    """The trainer, with canaries as further units behind the ordinary ones."""

    def __init__(self, places: NDArray[np.int64], clip_norm: float, generator: np.random.Generator) -> None:
        """
        Args:
            places: the coordinates of the canaries that are in the data.
            clip_norm: of the terms; canaries are ten times longer.
            generator: draws the ordinary rows.
        """
        ordinary = random_rows(ORDINARY_UNITS, 6, 2, generator)
        stand_in = Example(ordinary[0].tokens, ordinary[0].answer_start, "canary", "")
        rows = [*ordinary, *[stand_in] * (_ROWS * len(places))]
        owned: list[tuple[int, ...]] = [(row,) for row in range(ORDINARY_UNITS)]
        owned += [tuple(range(first, first + _ROWS)) for first in range(ORDINARY_UNITS, len(rows), _ROWS)]
        units = Units(tuple(f"unit {number}" for number in range(len(owned))), tuple(owned))
        super().__init__(tiny_base(0), lora(_RANK), rows, units, _PHYSICAL_TOKENS, None)
        self._places = places
        self._length = _OVER_CLIP * clip_norm

    def _unit_gradients(self, units: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        gradients, losses = torch.zeros(len(units), self.schema.dimension), torch.zeros(len(units))
        ordinary = [place for place, rows in enumerate(units) if rows[0] < ORDINARY_UNITS]
        if ordinary:
            found, values = super()._unit_gradients([units[place] for place in ordinary])
            gradients[ordinary], losses[ordinary] = found.cpu(), values.cpu()
        canaries = [place for place, rows in enumerate(units) if rows[0] >= ORDINARY_UNITS]
        where = [int(self._places[(units[place][0] - ORDINARY_UNITS) // _ROWS]) for place in canaries]
        gradients[canaries, where] = self._length
        return gradients, losses


def observe(terms: PrivacyTerms, canaries: int, steps: int, generator: np.random.Generator) -> Observed:
    """Flip a coin for each canary, take the private steps, and note every release.

    Args:
        terms: what is audited.
        canaries: m; half of them join. steps: how many.
        generator: the audit's own chance: coins and ordinary rows. The mechanism draws its own.

    Raises:
        UserError: more canaries than the model has trained coordinates.
    """
    joined = generator.random(canaries) < 0.5
    dimension = coordinates(_RANK)
    if canaries > dimension:
        raise UserError(f"{canaries} canaries are more than {dimension} trained coordinates", "use fewer canaries")
    # Spread over all layers: one that goes without noise shows.
    places = np.arange(canaries, dtype=np.int64) * dimension // canaries
    trainer = CanaryTrainer(places[joined], terms.max_grad_norm, generator)
    adapter, randomness = initial(trainer.schema, 0), SystemRandomness()
    seen = np.stack([trainer.private_sum(adapter, terms, randomness)[places] for _ in range(steps)])
    return Observed(joined, seen / terms.max_grad_norm)


def by_likelihood(seen: NDArray[np.float64], terms: PrivacyTerms) -> NDArray[np.float64]:
    """The log-likelihood ratio of "in" to "out" under the claimed noise and rate: the best score for an honest
    mechanism. Float64 [m] of [steps, m]."""
    return _log_ratio(seen, np.float64(terms.noise_std / terms.max_grad_norm), terms.sample_rate)


def by_spread(seen: NDArray[np.float64], terms: PrivacyTerms) -> NDArray[np.float64]:
    """The same, with center and noise of each coordinate as the releases show them: finds noise that is too small in
    places, or that repeats. Float64 [m] of [steps, m]."""
    center = np.median(seen, axis=0)
    claimed = terms.noise_std / terms.max_grad_norm
    # 1.4826 times the median absolute deviation is the standard deviation of a Gaussian.
    spread = np.maximum(1.4826 * np.median(np.abs(seen - center), axis=0), _LEAST_SPREAD * claimed)
    return _log_ratio(seen - center, spread, terms.sample_rate)


def _log_ratio(seen: NDArray[np.float64], spread: NDArray[np.float64] | np.float64, rate: float) -> NDArray[np.float64]:
    """Sum over steps of log(1 - q + q e^((2 x - 1) / (2 s^2)))."""
    shift = (2 * seen - 1) / (2 * spread**2)
    absent = np.log1p(-rate) if rate < 1 else -np.inf
    total: NDArray[np.float64] = np.logaddexp(absent, np.log(rate) + shift).sum(axis=0)
    return total
