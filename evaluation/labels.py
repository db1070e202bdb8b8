"""Class-restricted accuracy: which candidate label does the model find likeliest after the prompt?

A label is scored by its first token where all labels differ there, else by all its tokens and the end of the turn. All
labels of one row go through the model in one pass behind one copy of the prompt (`candidates.LabelTree`). The hidden
states below the first trained layer never change, so an `Evaluator` computes them once and then scores any number of
adapters through the top layers only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.records import Record, check_distinct
from ..errors import UserError
from ..spelling import plain
from ..training.adapter import LoraSettings, attach, schema_of, set_flat, untouched
from ..training.base import BaseModel
from ..training.company import adapters
from ..training.cuts import Above, find_cut
from ..training.forward import TOLERANCE, FullForward
from ..training.layers import backbone
from ..training.prefix import PrefixedStates, prefixed_states
from .candidates import PROMPT, label_tree
from .label_batches import LabelBatch, as_tensor, behind, label_batches, layout
from .not_finite import require_finite
from .prompts import all_prompt_tokens, label_tokens

HEAD_ROWS: Final = 512
"""Positions that pass through the head at once: a vocabulary of 256k in float32 then takes 0.5 GB."""

_LABELS_CHECKED: Final = 4


@dataclass(frozen=True, eq=False)
class LabelScores:
    """Results of one adapter on one test set of n rows and m labels.

    Attributes:
        predictions: the likeliest label of each row.
        accuracy: share of rows whose prediction is right.
        by_group: the same by `Record.group`, sorted by name; rows without a group are left out.
        nll: mean over rows of -log of the right label's probability among the candidates, in nats.
        log_likelihoods: float64 [n, m], log likelihood of each label's scored tokens, in nats.
    """

    predictions: tuple[str, ...]
    accuracy: float
    by_group: dict[str, float]
    nll: float
    log_likelihoods: NDArray[np.float64]

    @property
    def worst_group(self) -> tuple[str, float] | None:
        """Name and accuracy of the group served worst; None where no row has a group."""
        return min(self.by_group.items(), key=lambda item: item[1], default=None)


class Evaluator:
    """Scores adapters on one test set, which is encoded once.

    Attributes:
        labels: the candidates, in the order of the columns of `LabelScores.log_likelihoods`.
    """

    def __init__(
        self,
        base: BaseModel,
        lora: LoraSettings,
        records: Sequence[Record],
        labels: Sequence[str],
        context_length: int,
        batch_tokens: int,
        cached: bool,
    ) -> None:
        """
        Args:
            base: the base model; the adapter is attached in place.
            lora: what is trained.
            records: the test set; `answer` is the right label.
            labels: the candidate answers.
            context_length: tokens, as in training.
            batch_tokens: padded tokens that pass through the model at once. Bounds memory, not results.
            cached: keep the hidden states below the first trained layer in memory (test tokens x hidden size).

        Raises:
            UserError: no rows, fewer than two labels, a right answer that is no candidate, or a family that cannot
                start from cached hidden states.
        """
        if not records:
            raise UserError("the test set is empty", "give at least one test row")
        self.labels = tuple(labels)
        self._model = attach(base, lora)
        self._untouched = untouched(self._model)
        self._body = backbone(base.model)
        self._groups = [record.group for record in records]
        self._right = right_columns(records, self.labels)
        sequences = label_tokens(records[0], self.labels, base.tokenizer, context_length)
        self._tree = label_tree(sequences)
        prompts = all_prompt_tokens(records, base.tokenizer, context_length)
        self._full = FullForward(base.model)
        self._forward: FullForward | Above = self._full
        self._answers_only = False
        self._batches = label_batches(prompts, self._tree, batch_tokens, base.model.device, base.model.dtype)
        self._check_tree(base, sequences, min(prompts, key=len))
        schema = schema_of(self._model)
        layer = min(schema.layers, default=0) if cached else 0
        if layer > 0:
            shortest = as_tensor(min(prompts, key=len)[None, :], base.model.device)
            set_flat(self._model, next(adapters(schema)))
            cut = find_cut(base.model, schema.modules, layer, shortest, TOLERANCE[base.model.dtype])
            self._forward, self._answers_only = cut.above, cut.answers_only
            ends = [min(prompts, key=len), max(prompts, key=len)]
            (some,) = label_batches(ends, self._tree, 2**62, base.model.device, base.model.dtype)
            states = prefixed_states(cut.below, prompts, lambda way: self._below(way, some))
            self._batches = [self._from_below(states, batch) for batch in self._batches]

    def score(self, adapter: NDArray[np.float32] | None) -> LabelScores:
        """Score one adapter.

        Args:
            adapter: float32 [d]; None scores the base model untouched.

        Edge cases: the adapter stays set in the model afterwards. Ties go to the label listed first.
        """
        set_flat(self._model, self._untouched if adapter is None else adapter)
        found = np.empty((len(self._groups), self._tree.count))
        with torch.no_grad():
            for batch in self._batches:
                found[list(batch.rows)] = self._likelihoods(self._forward, batch)
        return scores_of(found, self._right, self._groups, self.labels)

    def _check_tree(self, base: BaseModel, sequences: Sequence[Sequence[int]], prompt: NDArray[np.int32]) -> None:
        """Refuse a family in which a label scored in the tree differs from the same label scored by itself."""
        if self._tree.first_only:
            return
        device, longest = base.model.device, sorted(range(len(sequences)), key=lambda label: -len(sequences[label]))
        (batch,) = label_batches([prompt], self._tree, 1, device, base.model.dtype)
        with torch.no_grad():
            together = self._likelihoods(self._forward, batch)[0]
            for label in longest[:_LABELS_CHECKED]:
                alone = sequence_likelihood(self._full, prompt, sequences[label], device)
                if not abs(alone - together[label]) <= TOLERANCE[base.model.dtype] * (1 + abs(alone)):
                    family = getattr(base.model.config, "model_type", type(base.model).__name__)
                    raise UserError(
                        f"model family {family!r} cannot score labels that begin with the same token",
                        "choose labels whose first tokens differ",
                    )

    def _below(self, below: PrefixedStates, batch: LabelBatch) -> torch.Tensor:
        """States [B, T, width] of a batch."""
        with layout(self._body, behind(batch, below.length)):
            return below(batch.inputs)

    def _from_below(self, below: PrefixedStates, batch: LabelBatch) -> LabelBatch:
        """The batch with its states in the place of token ids: of all positions, or of those that are read."""
        states = self._below(below, batch)
        if self._answers_only:
            states = states[_each_row(batch), self._places(batch)]
        return replace(batch, inputs=states)

    def _places(self, batch: LabelBatch) -> torch.Tensor:
        """Positions [B, 1 + nodes] that terms are read from: the prompt's last token, then every node of the tree."""
        return batch.ends[:, None] + torch.arange(1 + len(self._tree.tokens), device=batch.ends.device)

    def _likelihoods(self, forward: FullForward | Above, batch: LabelBatch) -> NDArray[np.float64]:
        """Float64 [B, labels]."""
        if self._answers_only and forward is self._forward:
            hidden = forward(batch.inputs)
        else:
            with layout(self._body, batch):
                hidden = forward(batch.inputs)[_each_row(batch), self._places(batch)]
        tree, count = self._tree, len(batch.rows)
        device = hidden.device
        # Column 0 is the prompt's last token, column 1 + n is node n.
        read, width = hidden.flatten(0, 1), hidden.shape[1]
        columns = torch.tensor(tree.nodes, device=device) - PROMPT
        targets = torch.tensor(tree.targets, device=device)
        logs = torch.empty((count * width, len(targets)), dtype=torch.float32, device=device)
        for start in range(0, len(read), HEAD_ROWS):
            logits = self._full.head(read[start : start + HEAD_ROWS]).float()
            logs[start : start + HEAD_ROWS] = logits[:, targets] - logits.logsumexp(dim=-1, keepdim=True)
        terms = logs.view(count, width, -1)[:, columns, torch.arange(len(targets), device=device)].double()
        sums = torch.zeros((count, tree.count), dtype=torch.float64, device=device)
        sums.index_add_(1, torch.tensor(tree.labels, device=device), terms)
        return sums.cpu().numpy()


def _each_row(batch: LabelBatch) -> torch.Tensor:
    return torch.arange(len(batch.rows), device=batch.ends.device)[:, None]


def sequence_likelihood(
    forward: FullForward, prompt: NDArray[np.int32], label: Sequence[int], device: torch.device
) -> float:
    """Log likelihood of a label's tokens after a prompt, in nats, by a plain pass: the reference for the tree."""
    tokens = np.concatenate([prompt, np.asarray(label, dtype=np.int32)])
    hidden = forward(as_tensor(tokens[None, :-1], device))[0, len(prompt) - 1 :]
    logs = forward.head(hidden).float().log_softmax(dim=-1)
    targets = as_tensor(np.asarray(label), device)
    return float(logs.gather(1, targets[:, None]).double().sum())


def scores_of(
    found: NDArray[np.float64], right: NDArray[np.int64], groups: Sequence[str], labels: Sequence[str]
) -> LabelScores:
    """Results of log likelihoods [n, m], given each row's right column and its group.

    Raises:
        NotFiniteError: a score is not finite.
    """
    require_finite(float(found.sum()))
    best = found.argmax(axis=1)
    hits = best == right
    by_group: dict[str, list[bool]] = {}
    for group, hit in zip(groups, hits, strict=True):
        if group:
            by_group.setdefault(group, []).append(bool(hit))
    totals = np.logaddexp.reduce(found, axis=1)
    return LabelScores(
        predictions=tuple(labels[index] for index in best),
        accuracy=float(hits.mean()),
        by_group={group: fmean(by_group[group]) for group in sorted(by_group)},
        nll=float((totals - found[np.arange(len(right)), right]).mean()),
        log_likelihoods=found,
    )


def right_columns(records: Sequence[Record], labels: Sequence[str]) -> NDArray[np.int64]:
    """The place of each row's answer among the labels, int64 [n].

    Raises:
        UserError: two labels are one, or an answer is no label.
    """
    check_distinct(labels, "the labels")
    places: Mapping[str, int] = {plain(label): place for place, label in enumerate(labels)}
    for row, record in enumerate(records):
        if plain(record.answer) not in places:
            raise UserError(
                f"test row {row + 1}: the answer {record.answer[:40]!r} is not among the {len(labels)} labels",
                "add it to the labels or remove the row",
            )
    return np.array([places[plain(record.answer)] for record in records], dtype=np.int64)
