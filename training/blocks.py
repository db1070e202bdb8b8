"""Rows as chains of blocks that run through the frozen layers one by one, so that equal beginnings are run once.

Chat headers, system messages and example turns begin many rows. The states behind `BLOCK` tokens follow from these
tokens and the ones before them, and each block passes through the layers by itself in a shape that follows from its
place in the row: so they are the same bits whichever other rows there are, and it does not matter who else begins so. A
prefix of all rows would not do: one row more can make it shorter, and round every other row differently.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from .forward import TOLERANCE, StatesBelow
from .prefix import FAILURES, alike

BLOCK: Final = 32
"""Tokens of a block: fewer are shared more often, and cost more each."""

_Keys = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Block:
    """A part of one or more rows.

    Attributes:
        parent: number of the block before it; -1 where rows begin.
        tokens: int32 [n], n at least 1.
        first: place of its first token in a row.
        start: place of its first token among the tokens of all blocks.
    """

    parent: int
    tokens: NDArray[np.int32]
    first: int
    start: int


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of a data set, each once, parents before children; and the numbers of each row's, in order."""

    every: tuple[Block, ...]
    rows: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return self.every[-1].start + len(self.every[-1].tokens) if self.every else 0


def blocks_of(rows: Sequence[NDArray[np.int32]], size: int) -> Blocks:
    """Cut rows into blocks of `size` tokens; the last one of a row may be shorter.

    Args:
        rows: the tokens of each row that enter the model.
        size: tokens of a block; 0 leaves rows whole.

    Guarantees:
        Blocks come depth first, so that what leads to a block is what was met last.
    """
    known: dict[tuple[int, bytes], int] = {}
    every: list[Block] = []
    chains: list[tuple[int, ...]] = [()] * len(rows)
    start = 0
    for row in sorted(range(len(rows)), key=lambda row: rows[row].astype(">i4").tobytes()):
        tokens, parent, chain = rows[row], -1, []
        for first in range(0, len(tokens), size or len(tokens)):
            part = tokens[first : first + size] if size else tokens
            number = known.setdefault((parent, part.tobytes()), len(every))
            if number == len(every):
                every.append(Block(parent, part, first, start))
                start += len(part)
            parent = number
            chain.append(number)
        chains[row] = tuple(chain)
    return Blocks(tuple(every), tuple(chains))


class BlockStates:
    """`StatesBelow` for one row at a time, in blocks or whole."""

    def __init__(self, below: StatesBelow, size: int, step: int, context: int | None) -> None:
        """
        Args:
            below: the frozen layers.
            size: tokens of a block; 0 where rows run whole.
            step: whole rows are padded to a multiple of it.
            context: the most positions that the model has, or None.
        """
        self.below = below
        self.size = size
        self._step = step
        self._context = context

    def of(self, blocks: Blocks) -> Iterator[tuple[Block, torch.Tensor]]:
        """Each block with its hidden states [n, hidden]."""
        path: list[tuple[int, _Keys]] = []
        for number, block in enumerate(blocks.every):
            while path and path[-1][0] != block.parent:
                path.pop()
            states, keys = self._run(block, [keys for _, keys in path])
            if len(block.tokens) == self.size:
                path.append((number, keys))
            yield block, states

    def _run(self, block: Block, before: Sequence[_Keys]) -> tuple[torch.Tensor, _Keys]:
        count = len(block.tokens)
        width = self.size or -(-count // self._step) * self._step
        if self._context is not None:
            width = max(count, min(width, self._context - block.first))
        tokens = torch.zeros(1, width, dtype=torch.int64)
        tokens[0, :count] = torch.from_numpy(block.tokens.astype(np.int64))
        tokens = tokens.to(self.below.device)
        if not self.size:
            return self.below(tokens)[0, :count], []
        past = DynamicCache()
        for layer in range(len(before[0]) if before else 0):
            past.update(*(torch.cat([keys[layer][part] for keys in before], dim=-2) for part in (0, 1)), layer)
        states = self.below(tokens, past)[0, :count]
        keys = [
            (one.keys[..., block.first :, :].clone(), one.values[..., block.first :, :].clone()) for one in past.layers
        ]
        return states, keys


def block_size(below: StatesBelow, step: int, context: int | None) -> int:
    """`BLOCK`, or 0 for a family that cannot run in blocks, by a check on synthetic rows: no real one has a say."""
    length = 2 * BLOCK + BLOCK // 2
    if context is not None and length > context:
        return 0
    row = np.random.default_rng(0).integers(1, below.vocabulary, length, dtype=np.int32)
    try:
        whole, parts = (
            torch.cat([states for _, states in BlockStates(below, size, step, context).of(blocks_of([row], size))])
            for size in (0, BLOCK)
        )
    except FAILURES:
        return 0
    return BLOCK if alike(parts, whole, TOLERANCE[below.dtype]) else 0
