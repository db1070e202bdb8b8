"""Test rows on their way through the model, each with the tree of labels behind its prompt."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .candidates import LabelTree


@dataclass(frozen=True, eq=False)
class LabelBatch:
    """Rows of similar length: what enters the forward pass, and from where terms are read.

    Attributes:
        rows: indices in the test set.
        inputs: token ids [B, T] for the full model, or hidden states [B, T, hidden] for the top layers.
        ends: [B], position of each prompt's last token.
        mask: additive [B, 1, T, T], who looks by who is seen, and positions [B, T]; None where there are no nodes:
            causal order then suffices.
    """

    rows: tuple[int, ...]
    inputs: torch.Tensor
    ends: torch.Tensor
    mask: torch.Tensor | None
    positions: torch.Tensor | None


def label_batches(
    prompts: Sequence[NDArray[np.int32]], tree: LabelTree, most_tokens: int, device: torch.device, dtype: torch.dtype
) -> list[LabelBatch]:
    """Rows sorted by length, longest first, in batches of at most `most_tokens` padded tokens (at least one row)."""
    order = sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row))
    batches, start = [], 0
    while start < len(order):
        width = len(prompts[order[start]]) + len(tree.tokens)
        rows = order[start : start + max(1, most_tokens // width)]
        batches.append(_batch(tuple(rows), [prompts[row] for row in rows], tree, device, dtype))
        start += len(rows)
    return batches


def _batch(
    rows: tuple[int, ...],
    prompts: Sequence[NDArray[np.int32]],
    tree: LabelTree,
    device: torch.device,
    dtype: torch.dtype,
) -> LabelBatch:
    """Prompt, nodes, padding on the right."""
    nodes = np.array(tree.tokens, dtype=np.int64)
    width = max(len(prompt) for prompt in prompts) + len(nodes)
    inputs = np.zeros((len(prompts), width), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        inputs[row, : len(prompt)] = prompt
        inputs[row, len(prompt) : len(prompt) + len(nodes)] = nodes
    ends = as_tensor(np.array([len(prompt) - 1 for prompt in prompts]), device)
    if not len(nodes):
        return LabelBatch(rows, as_tensor(inputs, device), ends, None, None)
    seen = np.stack([tree.mask(len(prompt), width) for prompt in prompts])
    positions = np.zeros((len(prompts), width), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        positions[row, : len(prompt)] = np.arange(len(prompt))
        positions[row, len(prompt) : len(prompt) + len(nodes)] = len(prompt) + tree.depths
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(torch.from_numpy(~seen), torch.finfo(dtype).min)
    return LabelBatch(rows, as_tensor(inputs, device), ends, mask[:, None].to(device), as_tensor(positions, device))


def as_tensor(values: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Whole numbers as an int64 tensor."""
    return torch.from_numpy(values.astype(np.int64)).to(device)


def behind(batch: LabelBatch, prefix: int) -> LabelBatch:
    """The batch with mask and positions of those behind the first `prefix` tokens only, who still see these."""
    if batch.mask is None or batch.positions is None:
        return batch
    return replace(batch, mask=batch.mask[:, :, prefix:], positions=batch.positions[:, prefix:])


@contextmanager
def layout(body: nn.Module, batch: LabelBatch) -> Iterator[None]:
    """While it lasts, the backbone sees the batch's mask and positions; the forward passes of `training` stay as is."""
    if batch.mask is None:
        yield
        return

    def add(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "attention_mask": batch.mask, "position_ids": batch.positions}

    handle = body.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
