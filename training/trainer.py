"""An organization's private step: sampled units, their clipped gradients, one noised sum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UserError
from ..privacy.mechanism import noised
from ..privacy.sampling import Randomness, poisson_sample
from ..privacy.terms import METRICS, PrivacyTerms
from .adapter import LoraSettings, attach, schema_of, set_flat
from .base import BaseModel
from .batches import Batch, collate, pack, row_losses
from .clipped import add_clipped
from .features import Features, cache_features
from .flat_buffer import FlatBuffer
from .forward import TOLERANCE, FullForward, StatesBelow, TopForward, check_head, check_top, last_mlp_only
from .guards import NotMovedError
from .hooks import HookGradients
from .per_unit import UnitGradients, check_against_loop, unit_sums

if TYPE_CHECKING:
    from ..data.template import Example
    from ..data.units import Units

# Memory for the gradients of one physical batch, in bytes. A single row may take more.
_GRADIENT_BYTES = 2**29


@dataclass(frozen=True, eq=False)
class _Synthetic:
    """A random row."""

    tokens: NDArray[np.int32]
    answer_start: int


class Trainer:
    """Gradients of one organization's data at any adapter, clipped by privacy unit.

    Construction attaches the adapter to the base model, computes or finds the cached hidden states, and checks on a
    synthetic batch that cached and full forward passes agree and that per-row gradients equal an autograd loop.

    Attributes:
        model: the PEFT model, for evaluation at the same adapter.
        schema: names and shapes of what is trained.
        examples, units: the data set.
        dropped: units whose gradient was not finite in the last sum. Not private: it stays on this machine.
    """

    def __init__(
        self,
        base: BaseModel,
        lora: LoraSettings,
        examples: Sequence["Example"],
        units: "Units",
        physical_batch_tokens: int,
        features_folder: Path | None,
        progress: Callable[[str, int, int], None] | None = None,
        hooks: bool = False,
    ) -> None:
        """
        Args:
            base: a frozen model; the adapter is attached in place.
            lora: what is trained.
            examples: the rows.
            units: which rows belong to which privacy unit.
            physical_batch_tokens: padded tokens that pass through the model at once. It bounds memory and does not
                change results.
            features_folder: where hidden states below the first trained layer are cached; None computes all layers in
                each step.
            progress: called with (what is going on, rows or units done, in all). Stays on this machine.
            hooks: compute gradients by Opacus' hooks: the reference, slower and with twice the memory.

        Raises:
            UserError: there is no data, or the model is one that cannot be trained privately, by name.
        """
        if not examples or not units.ids:
            raise UserError("there are no records to train on", "check the data file and its columns")
        self.base = base
        self.model = attach(base, lora)
        self.schema = schema_of(self.model)
        self.examples = examples
        self.units = units
        self._lengths = [len(example.tokens) for example in examples]
        self._most_tokens = physical_batch_tokens
        self._most_rows = max(1, _GRADIENT_BYTES // (4 * self.schema.dimension))
        self._progress = progress or _silent
        self._device: torch.device = base.model.device
        self._gradients: UnitGradients = (HookGradients if hooks else FlatBuffer)(self.model, self.schema)
        self.dropped = 0
        self._full = FullForward(base.model)
        self._layer = min(self.schema.layers, default=0) if features_folder is not None else 0
        self._narrow = False
        self._top: TopForward | None = None
        self._features: Features | None = None
        self._check()
        if features_folder is not None and self._layer > 0:
            below = StatesBelow(base.model, self._layer)
            self._features = cache_features(
                features_folder,
                below,
                examples,
                base.digest,
                physical_batch_tokens,
                lambda done, of: self._progress("hidden states", done, of),
            )

    def clipped_sum(
        self, adapter: NDArray[np.float32], unit_indices: Sequence[int], terms: PrivacyTerms, choose: Randomness
    ) -> NDArray[np.float64]:
        """Sum over units of their clipped mean gradients and their metrics, without noise.

        Args:
            adapter: float32 [d], where gradients are taken.
            unit_indices: positions in `units`, each at most once.
            terms: clip norm, rows a unit, scales of the metrics.
            choose: picks the rows of a unit that has more than `terms.records_per_unit`.

        Returns:
            float64 [d + 3]: gradient of the mean loss a unit (nats a token), then `METRICS`.

        Guarantees:
            One unit changes the result by at most `terms.sensitivity` in the L2 norm. The result does not depend on how
            units fall into physical batches, up to rounding.

        Edge cases:
            No units: zeros. A unit whose gradient is not finite adds no gradient and counts as clipped.
        """
        if len(set(unit_indices)) != len(unit_indices):
            raise ValueError("a unit is given twice")
        self._set(adapter)
        rows = [self._rows_of(unit, terms.records_per_unit, choose) for unit in unit_indices]
        total = np.zeros(self.schema.dimension + len(METRICS))
        done = self.dropped = 0
        for batch in pack(rows, self._lengths, self._most_tokens, self._most_rows):
            gradients, losses = self._unit_gradients([rows[unit] for unit in batch])
            self.dropped += add_clipped(total, gradients, losses, terms)
            done += len(batch)
            self._progress("units", done, len(rows))
        return total

    def private_sum(
        self, adapter: NDArray[np.float32], terms: PrivacyTerms, randomness: Randomness
    ) -> NDArray[np.float64]:
        """One private step: a Poisson sample of units, their clipped sum, the terms' noise on all of it.

        Args:
            adapter: float32 [d].
            terms: rate, clipping, noise. Where privacy is disabled there is no noise; the rest stays.
            randomness: who joins. Noise always comes from the operating system.

        Returns:
            float64 [d + 3], ready to leave the organization.

        Guarantees:
            Noise of standard deviation `terms.noise_std` on every coordinate, also where the sample is empty.

        Raises:
            NotMovedError: units were sampled and not one of them has a gradient: noise would hide it from then on.
        """
        sample = poisson_sample(len(self.units.ids), terms.sample_rate, randomness)
        total = self.clipped_sum(adapter, [int(unit) for unit in sample], terms, randomness)
        if len(sample) and not total[: self.schema.dimension].any():
            raise NotMovedError("the gradient of every sampled unit is zero", "check the model and its LoRA targets")
        return noised(total, terms) if terms.enabled else total

    @property
    def way(self) -> str:
        """How gradients are made."""
        return self._gradients.name

    @torch.no_grad()
    def loss(self, adapter: NDArray[np.float32], rows: Sequence[int]) -> float:
        """Mean loss of the rows, nats a token. It is not private: it must not leave the organization."""
        self._set(adapter)
        losses = [self._row_losses(chunk) for chunk in self._chunks(rows)]
        return float(torch.cat(losses).double().mean()) if losses else float("nan")

    def _set(self, adapter: NDArray[np.float32]) -> None:
        set_flat(self.model, adapter)

    def _rows_of(self, unit: int, most: int, choose: Randomness) -> list[int]:
        rows = self.units.rows[unit]
        if len(rows) <= most:
            return list(rows)
        return [rows[place] for place in choose.choose(len(rows), most)]

    def _chunks(self, rows: Sequence[int]) -> list[list[int]]:
        batches = pack([[row] for row in rows], self._lengths, self._most_tokens, self._most_rows)
        return [[rows[place] for place in batch] for batch in batches]

    def _unit_gradients(self, units: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean gradients [U, d], until the next call, and mean losses [U] of the units of one physical batch."""
        rows = [row for unit in units for row in unit]
        sizes = [len(unit) for unit in units]
        chunks = self._chunks(rows) if len(units) == 1 else [rows]
        if len(chunks) == 1:
            gradients, losses = self._gradients.of(lambda: self._row_losses(rows), sizes)
            return gradients, unit_sums(losses, sizes) / torch.tensor(sizes, device=losses.device)
        # One unit that is larger than a physical batch.
        gradient = torch.zeros(1, self.schema.dimension, device=self._device)
        loss = torch.zeros(1, device=self._device)
        for chunk in chunks:
            gradients, losses = self._gradients.of(partial(self._row_losses, chunk), [len(chunk)], [len(rows)])
            gradient += gradients
            loss += losses.sum()
        return gradient, loss / len(rows)

    def _row_losses(self, rows: Sequence[int]) -> torch.Tensor:
        batch = collate([self.examples[row] for row in rows], self._device)
        if self._features is not None and self._top is not None:
            top, states = self._top, self._features.padded(rows, self._device)
            return self._losses(lambda: top(states), batch)
        return self._losses(lambda: self._full(batch.inputs), batch)

    def _losses(self, forward: Callable[[], torch.Tensor], batch: Batch) -> torch.Tensor:
        if not self._narrow:
            return row_losses(forward(), self._full.head, batch)
        with last_mlp_only(self.base.model, batch):
            return row_losses(forward(), self._full.head, batch)

    def _can_narrow(self, forward: Callable[[], torch.Tensor], batch: Batch, tolerance: float) -> bool:
        """Whether the short cut through the last layer leaves losses alone; a family where it does not goes without."""
        with torch.no_grad():
            whole = self._losses(forward, batch)
            try:
                with last_mlp_only(self.base.model, batch):
                    narrow = row_losses(forward(), self._full.head, batch)
            except (TypeError, AttributeError, IndexError, RuntimeError):
                return False
        return bool((whole - narrow).abs().max() <= tolerance * whole.abs().max())

    def _check(self) -> None:
        """Checks on synthetic rows of three lengths, at a random adapter: at the first one B is zero and hides A."""
        model: Any = self.base.model
        generator = np.random.default_rng(0)
        tolerance = TOLERANCE[model.dtype]
        vocabulary = int(model.config.vocab_size)
        tokens = [generator.integers(1, vocabulary, length, dtype=np.int32) for length in (7, 12, 9)]
        synthetic = [_Synthetic(row, len(row) - 3) for row in tokens]
        self._set((0.02 * generator.standard_normal(self.schema.dimension)).astype(np.float32))
        inputs = collate(synthetic[1:2], self._device).inputs
        check_head(model, inputs, tolerance)
        states: Callable[[torch.Tensor], torch.Tensor] = self._full
        if self._layer > 0:
            check_top(model, self._layer, inputs, tolerance)
            self._top = TopForward(model, self._layer)
            top, below = self._top, StatesBelow(model, self._layer)
            states = lambda tokens: top(below(tokens))  # noqa: E731

        def losses(rows: Sequence[int]) -> torch.Tensor:
            batch = collate([synthetic[row] for row in rows], self._device)
            return self._losses(lambda: states(batch.inputs), batch)

        everything = collate(synthetic, self._device)
        self._narrow = self._can_narrow(lambda: states(everything.inputs), everything, tolerance)
        family = str(model.config.model_type)
        try:
            check_against_loop(self._gradients, losses, len(synthetic), family, tolerance)
        except UserError:
            if self.way == HookGradients.name:
                raise
            # What the buffer cannot do, the hooks may.
            self._gradients = HookGradients(self.model, self.schema)
            check_against_loop(self._gradients, losses, len(synthetic), family, tolerance)


def _silent(_what: str, _done: int, _of: int) -> None:
    """No progress is shown."""
