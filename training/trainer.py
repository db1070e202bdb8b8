"""An organization's private step: sampled units, their clipped gradients, one noised sum."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..adapter.part import Part
from ..errors import UserError
from ..privacy.mechanism import noised
from ..privacy.sampling import Randomness, poisson_sample
from ..privacy.terms import METRICS, PrivacyTerms
from .adapter import LoraSettings, attach, schema_of, set_flat
from .base import BaseModel
from .clipped import MOST_UNITS, add_clipped, in_numbers
from .company import adapters
from .cuts import Cut, find_cut
from .features import cache_features, hand_on
from .forward import TOLERANCE
from .head import Head
from .per_unit import unit_means
from .sound import Way, sound_way
from .tile_losses import TileLosses
from .tiles import ROWS, Shape, Shapes, pack, tiles

if TYPE_CHECKING:
    from ..data.template import Example
    from ..data.units import Units

logger = logging.getLogger("cotune.training")

HIDDEN_STATES = "hidden states"
"""What progress is called while the frozen layers run, once for a data set: minutes."""

# Memory for the gradients of one group of units, and of one tile of rows, in bytes. Eight rows may take more.
_GRADIENT_BYTES = 2**29
_MOST_ROWS = 16
_MOST_ANSWERS = 64


class Trainer:
    """Gradients of one organization's data at any adapter, clipped by privacy unit.

    Construction attaches the adapter to the base model, computes or finds the cached hidden states, and checks on
    synthetic rows that cached and full forward passes agree, that per-row gradients equal an autograd loop, and that
    they do not depend on which other rows are computed with them.

    Attributes:
        model: the PEFT model, for evaluation at the same adapter.
        schema: names and shapes of what is trained.
        examples, units: the data set.
        dropped: units whose gradient was not finite, or could not be computed, in the last sum. Not private: it stays
            on this machine.
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
            physical_batch_tokens: padded tokens that pass through the model at once, though never fewer than eight
                rows. It bounds memory.
            features_folder: where hidden states below the first trained layer are cached; None computes all layers in
                each step.
            progress: called with (what is going on, rows or units done, in all). Stays on this machine.
            hooks: compute gradients by Opacus' hooks: the reference, slower and with twice the memory.

        Raises:
            UserError: there is no data, or too much, or the model is one that cannot be trained privately, by name.
        """
        if not examples or not units.ids:
            raise UserError("there are no records to train on", "check the data file and its columns")
        rows = int(base.model.get_input_embeddings().weight.shape[0])
        if max(int(example.tokens.max()) for example in examples) >= rows:
            raise UserError(f"a record has a token that {base.name} has no embedding for", "mend the tokenizer's files")
        if len(units.ids) > MOST_UNITS:
            raise UserError(f"{len(units.ids)} privacy units", f"train on {MOST_UNITS} units at most")
        self.base = base
        self.model = attach(base, lora)
        self.schema = schema_of(self.model)
        self.examples = examples
        self.units = units
        self.dropped = 0
        self._progress = progress or (lambda _what, _done, _of: None)
        # As many as fit: gradients of units, and of the rows of one tile.
        self._most = max(1, _GRADIENT_BYTES // (4 * self.schema.dimension))
        context = getattr(base.model.config, "max_position_embeddings", None)
        head = Head(base.model, np.zeros(0, dtype=np.int32) if lora.basis is None else lora.basis.tokens)
        cut = self._cut(features_folder is not None)
        only = cut is not None and cut.answers_only
        most_rows = max(ROWS, min(_MOST_ANSWERS if only else _MOST_ROWS, self._most))
        limits = Shapes(physical_batch_tokens, most_rows, context, only)
        self._shapes = [limits.of(example) for example in examples]
        self._way: Way = self._sound_way(cut, head, limits, hooks)
        features = None
        if features_folder is not None and cut is not None:
            features = cache_features(
                features_folder,
                cut,
                examples,
                base.digest,
                context,
                lambda done, of: self._progress(HIDDEN_STATES, done, of),
            )
        self._cached = None if cut is None or features is None else (cut, features)
        self._losses = TileLosses(base.model, examples, head, cut, features, self._way.parts)

    def _sound_way(self, cut: Cut | None, head: Head, limits: Shapes, hooks: bool) -> Way:
        """Found once for a model in a process: data sets of several organizations share it, and no row has a say."""
        known: dict[tuple[object, ...], Way] = vars(self.model).setdefault("_cotune_ways", {})
        facts = (None if cut is None else cut.below.widths, limits, hooks, torch.get_num_threads())
        if facts not in known:
            known[facts] = sound_way(self.model, self.schema, cut, head, limits, hooks)
        return known[facts]

    def _cut(self, cached: bool) -> Cut | None:
        """Where the model is cut, found once for a model.

        None where nothing below the first trained layer is to be cached, or nothing is.
        """
        layer = min(self.schema.layers, default=0)
        if not cached or layer == 0:
            return None
        known: dict[int, Cut] = vars(self.model).setdefault("_cotune_cuts", {})
        if layer not in known:
            model = self.base.model
            # Not the first adapter, which changes nothing: a cut that goes around it would not show.
            set_flat(self.model, next(adapters(self.schema)))
            tokens = torch.arange(1, 17, device=model.device)[None]
            known[layer] = find_cut(model, self.schema.modules, layer, tokens, TOLERANCE[model.dtype])
        return known[layer]

    def clipped_sum(
        self,
        adapter: NDArray[np.float32],
        unit_indices: Sequence[int],
        terms: PrivacyTerms,
        choose: Randomness,
        part: Part | None = None,
    ) -> NDArray[np.float64]:
        """Sum over units of their clipped mean gradients and their metrics, without noise.

        Args:
            adapter: float32 [d], where gradients are taken.
            unit_indices: positions in `units`, each at most once.
            terms: clip norm, rows a unit, scales of the metrics.
            choose: picks the rows of a unit that has more than `terms.records_per_unit`.
            part: what of the adapter is trained, k coordinates: a unit's gradient is clipped over them, and nothing of
                the others is in the sum. None: all of it.

        Returns:
            float64 [k + 3]: gradient of the mean loss a unit (nats a token), then `METRICS`.

        Guarantees:
            One unit changes the result by at most `terms.sensitivity` in the L2 norm: what it adds is a function of its
            own rows, and the sum is exact. Nothing is raised because of what is in the data or the adapter.

        Edge cases:
            No units: zeros. A unit whose gradient is not finite, or cannot be computed, adds no gradient and counts as
            clipped, with the largest loss.
        """
        if len(set(unit_indices)) != len(unit_indices):
            raise ValueError("a unit is given twice")
        self._set(adapter)
        rows = [self._rows_of(unit, terms.records_per_unit, choose) for unit in unit_indices]
        size = self.schema.dimension if part is None else part.size
        total = torch.zeros(size + len(METRICS), dtype=torch.int64, device=self.base.model.device)
        done = self.dropped = 0
        for group in pack(rows, self._shapes, self._most):
            gradients, losses = self._unit_gradients([rows[unit] for unit in group])
            if part is not None and part.size < self.schema.dimension:
                gradients = torch.cat([gradients[:, start:stop] for start, stop in part.runs], dim=1)
            self.dropped += add_clipped(total, gradients, losses, terms)
            done += len(group)
            self._progress("units", done, len(rows))
        return in_numbers(total, terms)

    def private_sum(
        self, adapter: NDArray[np.float32], terms: PrivacyTerms, randomness: Randomness, part: Part | None = None
    ) -> NDArray[np.float64]:
        """One private step: a Poisson sample of units, their clipped sum, the terms' noise on all of it.

        Args:
            adapter: float32 [d].
            terms: rate, clipping, noise. Where privacy is disabled there is no noise; the rest stays.
            randomness: who joins. Noise always comes from the operating system.
            part: what of the adapter is trained, as in `clipped_sum`.

        Returns:
            float64 [k + 3], ready to leave the organization.

        Guarantees:
            Noise of standard deviation `terms.noise_std` on every coordinate, also where the sample is empty. Nothing
            is raised because of what is in the data or the adapter: whether and how a step ends tells nothing.
        """
        sample = poisson_sample(len(self.units.ids), terms.sample_rate, randomness)
        total = self.clipped_sum(adapter, [int(unit) for unit in sample], terms, randomness, part)
        if len(sample) and not total[: -len(METRICS)].any():
            logger.warning("the gradient of every sampled unit is zero: check the model and its LoRA targets")
        return noised(total, terms) if terms.enabled else total

    def hand_on(self, places: Sequence[int], folder: Path) -> None:
        """Put the cached states of some rows where a trainer of these rows alone, in this order, looks for them."""
        if self._cached is not None:
            cut, features = self._cached
            rows = [self.examples[place] for place in places]
            hand_on(features, places, folder, cut, rows, self.base.digest)

    @property
    def answers_only(self) -> bool:
        """Whether a step runs over the cached states of the answers' positions alone."""
        return self._cached is not None and self._cached[0].answers_only

    @property
    def way(self) -> str:
        """How gradients are made."""
        return self._way.name

    def loss(self, adapter: NDArray[np.float32], rows: Sequence[int]) -> float:
        """Mean loss of the rows, nats a token. It is not private: it must not leave the organization."""
        return self._mean(adapter, rows, self._losses)

    def exact(self, adapter: NDArray[np.float32], rows: Sequence[int]) -> float:
        """Share of the rows whose answer greedy decoding writes word for word. It is not private, like `loss`."""
        return self._mean(adapter, rows, self._losses.greedy)

    @torch.no_grad()
    def final_states(self, adapter: NDArray[np.float32]) -> NDArray[np.float32]:
        """The last hidden state of each row where its answer begins, float32 [n, hidden]. Not private, like `loss`."""
        self._set(adapter)
        found: dict[int, NDArray[np.float32]] = {}
        for shape, tile in tiles([[row] for row in range(len(self.examples))], self._shapes):
            numbers = [row for _, row in tile]
            hidden, _ = self._losses.at_answers(numbers, shape)
            found |= zip(numbers, hidden[: len(numbers), 0].float().cpu().numpy(), strict=True)
        return np.stack([found[row] for row in range(len(self.examples))])

    @torch.no_grad()
    def answered(
        self, adapter: NDArray[np.float32], rows: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """How likely each row's answer is, and whether greedy decoding writes it. It is not private, like `loss`.

        Returns:
            Float64 [n], the negative log-likelihood of all answer tokens together among all tokens, in nats; bool [n].
        """
        self._set(adapter)
        place = {row: number for number, row in enumerate(rows)}
        losses, right = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.bool_)
        for shape, tile in tiles([[row] for row in rows], self._shapes):
            members = [row for _, row in tile]
            found, exact = self._losses.answered(members, shape)
            places = [place[row] for row in members]
            losses[places] = found[: len(members)].double().cpu().numpy()
            right[places] = exact[: len(members)].cpu().numpy()
        return losses, right

    @torch.no_grad()
    def _mean(
        self, adapter: NDArray[np.float32], rows: Sequence[int], of: Callable[[Sequence[int], Shape], torch.Tensor]
    ) -> float:
        """The mean over rows of what a tile gives of each; NaN without rows."""
        self._set(adapter)
        every = tiles([[row] for row in rows], self._shapes)
        found = [of([row for _, row in tile], shape)[: len(tile)] for shape, tile in every]
        return float(torch.cat(found).double().mean()) if found else float("nan")

    def _set(self, adapter: NDArray[np.float32]) -> None:
        set_flat(self.model, adapter)

    def _rows_of(self, unit: int, most: int, choose: Randomness) -> list[int]:
        rows = self.units.rows[unit]
        if len(rows) <= most:
            return list(rows)
        return [rows[place] for place in choose.choose(len(rows), most)]

    def _unit_gradients(self, units: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean gradients [U, d] and mean losses [U] of the units of one group."""
        return unit_means(units, self._shapes, self._row_gradients, self._way.alone, self.schema.dimension)

    def _row_gradients(self, rows: Sequence[int], shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients [B, d], until the next call, and losses [B] of a tile that begins with these rows."""
        return self._way.gradients.of(lambda: self._losses(rows, shape))
