"""Rows on their way through the model: padding, physical batches, and the loss of each row's answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class Row(Protocol):
    """What is needed of an example here: its tokens, int32 [T], and where the answer starts among them."""

    @property
    def tokens(self) -> NDArray[np.int32]: ...
    @property
    def answer_start(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """B rows, padded on the right to T positions.

    Causal attention keeps padding on the right out of every real position, so no attention mask is needed. The last
    token of a row is only ever predicted, so it is not among the inputs.

    Attributes:
        inputs: int64 [B, T] token ids; padding is token 0.
        rows, positions: int64 [n], where each of the n answer tokens is predicted from.
        targets: int64 [n], the answer tokens, row by row.
        lengths: int64 [B], answer tokens in each row, at least 1.
    """

    inputs: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    lengths: torch.Tensor


def collate(examples: Sequence[Row], device: torch.device) -> Batch:
    """One batch of rows.

    Raises:
        ValueError: a row has no answer token, or none before it.
    """
    for example in examples:
        if not 0 < example.answer_start < len(example.tokens):
            raise ValueError(f"a row of {len(example.tokens)} tokens whose answer starts at {example.answer_start}")
    inputs = np.zeros((len(examples), max(len(example.tokens) for example in examples) - 1), dtype=np.int64)
    for row, example in enumerate(examples):
        inputs[row, : len(example.tokens) - 1] = example.tokens[:-1]
    lengths = np.array([len(example.tokens) - example.answer_start for example in examples])
    positions = np.concatenate([np.arange(e.answer_start - 1, len(e.tokens) - 1) for e in examples])
    targets = np.concatenate([np.asarray(e.tokens[e.answer_start :], dtype=np.int64) for e in examples])

    def tensor(values: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    rows = np.repeat(np.arange(len(examples)), lengths)
    return Batch(tensor(inputs), tensor(rows), tensor(positions), tensor(targets), tensor(lengths))


def row_losses(hidden: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor], batch: Batch) -> torch.Tensor:
    """Mean negative log-likelihood of each row's answer tokens, in nats a token.

    Args:
        hidden: [B, T, hidden] final hidden states.
        head: from [n, hidden] to logits [n, vocabulary]; only answer positions pass through it.
        batch: the rows.

    Returns:
        float32 [B].
    """
    logits = head(hidden[batch.rows, batch.positions]).float()
    losses = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    sums = torch.zeros(len(batch.lengths), device=losses.device).index_add(0, batch.rows, losses)
    return sums / batch.lengths


def pack(units: Sequence[Sequence[int]], lengths: Sequence[int], most_tokens: int, most_rows: int) -> list[list[int]]:
    """Group units of similar length into physical batches, so that little is padded.

    Args:
        units: the rows of each unit, each with one row or more.
        lengths: tokens of every row of the data set.
        most_tokens: padded tokens in a batch.
        most_rows: rows in a batch.

    Returns:
        Batches of positions in `units`. A unit is never split; one that is too large is alone in its batch.
    """
    longest = [max(lengths[row] for row in rows) for rows in units]
    batches: list[list[int]] = []
    rows = 0
    for unit in sorted(range(len(units)), key=lambda unit: (-longest[unit], unit)):
        rows += len(units[unit])
        # Units come longest first, so the first of a batch sets its padded length.
        if not batches or rows > most_rows or rows * longest[batches[-1][0]] > most_tokens:
            batches.append([])
            rows = len(units[unit])
        batches[-1].append(unit)
    return batches
