"""Rows as chains of blocks that run through the frozen layers one by one, so that equal beginnings are run once.

Chat headers, system messages and example turns begin many rows. The states behind `BLOCK` tokens follow from these
tokens and the ones before them, and each block passes through the layers in a shape that follows from its place in the
row. Blocks of one place run side by side if that does not show, which is tried on the machine at hand. So states are
the same bits whichever other rows there are, and it does not matter who else begins so. A prefix of all rows would not
do: one row more can make it shorter, and round every other row differently.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from .cuts import Below
from .forward import TOLERANCE
from .prefix import FAILURES, alike
from .tiles import ROWS

BLOCK: Final = 32
"""Tokens of a block: fewer are shared more often, and cost more each."""

_LAST_STEP: Final = 8
"""The last block of a row is padded to a multiple of so many tokens."""

_KEPT: Final = 256
"""Blocks whose keys are kept so that others can run together: 8192 tokens."""

_Keys = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Block:
    """A part of one or more rows.

    Attributes:
        parent: number of the block before it; -1 where rows begin.
        tokens: int32 [n], n at least 1.
        first: place of its first token in a row.
    """

    parent: int
    tokens: NDArray[np.int32]
    first: int


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of a data set, each once, parents before children; and the numbers of each row's, in order."""

    every: tuple[Block, ...]
    rows: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return sum(len(block.tokens) for block in self.every)


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
    for row in sorted(range(len(rows)), key=lambda row: rows[row].astype(">i4").tobytes()):
        tokens, parent, chain = rows[row], -1, []
        for first in range(0, len(tokens), size or len(tokens)):
            part = tokens[first : first + size] if size else tokens
            number = known.setdefault((parent, part.tobytes()), len(every))
            if number == len(every):
                every.append(Block(parent, part, first))
            parent = number
            chain.append(number)
        chains[row] = tuple(chain)
    return Blocks(tuple(every), tuple(chains))


@dataclass(frozen=True)
class Form:
    """How rows pass through the frozen layers.

    Attributes:
        size: tokens of a block; 0 where rows run whole.
        places: blocks that run at once; those without one hold zeros.
    """

    size: int
    places: int


class BlockStates:
    """The lower side of a cut for blocks, some at once."""

    def __init__(self, below: Below, form: Form, step: int, context: int | None) -> None:
        """
        Args:
            below: the frozen layers.
            form: how rows pass through them.
            step: whole rows are padded to a multiple of it.
            context: the most positions that the model has, or None.
        """
        self.below = below
        self.form = form
        self._step = step
        self._context = context

    def of(self, blocks: Blocks) -> Iterator[tuple[int, torch.Tensor]]:
        """The number of each block and its hidden states [n, width], parents before children."""
        walk = _Walk(blocks.every, [self._width(block) for block in blocks.every])
        while group := walk.next(self.form.places):
            found, keys = self._run(blocks.every, group, walk.keys)
            for number, states, own in zip(group, found, keys, strict=False):
                walk.done(number, own)
                yield number, states[: len(blocks.every[number].tokens)]

    def _width(self, block: Block) -> int:
        count = len(block.tokens)
        step = _LAST_STEP if self.form.size else self._step
        width = -(-count // step) * step
        return width if self._context is None else max(count, min(width, self._context - block.first))

    def _run(
        self, every: Sequence[Block], group: Sequence[int], keys: dict[int, _Keys]
    ) -> tuple[torch.Tensor, list[_Keys]]:
        """States [places, T, width] of blocks of one place and length, and what their children attend to."""
        block = every[group[0]]
        tokens = torch.zeros(self.form.places, self._width(block), dtype=torch.int64)
        for place, number in enumerate(group):
            tokens[place, : len(every[number].tokens)] = torch.from_numpy(every[number].tokens.astype(np.int64))
        tokens = tokens.to(self.below.device)
        if not self.form.size:
            return self.below(tokens), [[]] * len(group)
        past = DynamicCache()
        chains = [_before(every, number) for number in group]
        chains += chains[:1] * (self.form.places - len(chains))
        for layer in range(len(keys[block.parent]) if block.first else 0):
            rows = [
                [torch.cat([keys[one][layer][part] for one in chain], dim=-2) for chain in chains] for part in (0, 1)
            ]
            past.update(torch.cat(rows[0]), torch.cat(rows[1]), layer)
        states = self.below(tokens, past)
        layers = [(one.keys[..., block.first :, :], one.values[..., block.first :, :]) for one in past.layers]
        return states, [
            [(one[place : place + 1].clone(), other[place : place + 1].clone()) for one, other in layers]
            for place in range(len(group))
        ]


class _Walk:
    """Which blocks run next: the furthest into their rows of which there are enough, or which have to, to free memory.

    Attributes:
        keys: of the blocks that others wait for.
    """

    def __init__(self, every: Sequence[Block], widths: Sequence[int]) -> None:
        self._every = every
        self._widths = widths
        self._children: list[list[int]] = [[] for _ in every]
        self._waiting: dict[tuple[int, int], deque[int]] = {}
        self.keys: dict[int, _Keys] = {}
        for number, block in enumerate(every):
            if block.parent >= 0:
                self._children[block.parent].append(number)
        self._unfinished = [len(children) for children in self._children]
        self._add(number for number, block in enumerate(every) if block.parent < 0)

    def next(self, most: int) -> list[int]:
        """Blocks of one place and width, no more than `most`; none when all have run."""
        if not self._waiting:
            return []
        enough = [kind for kind, numbers in self._waiting.items() if len(numbers) >= most]
        kind = max(self._waiting) if len(self.keys) > _KEPT else max(enough, default=min(self._waiting))
        waiting = self._waiting[kind]
        group = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        if not waiting:
            del self._waiting[kind]
        return group

    def done(self, number: int, keys: _Keys) -> None:
        """A block has run: what follows it can; keys that nothing waits for are let go."""
        if self._children[number]:
            self.keys[number] = keys
            self._add(self._children[number])
            return
        number = self._every[number].parent
        while number >= 0:
            self._unfinished[number] -= 1
            if self._unfinished[number]:
                return
            del self.keys[number]
            number = self._every[number].parent

    def _add(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._waiting.setdefault((self._every[number].first, self._widths[number]), deque()).append(number)


def _before(every: Sequence[Block], number: int) -> list[int]:
    """The blocks that lead to a block, in order."""
    chain: list[int] = []
    while (number := every[number].parent) >= 0:
        chain.append(number)
    return chain[::-1]


def known_form(below: Below, step: int, context: int | None) -> Form:
    """`sound_form`, found once for a model and the parts that are kept of it, at a number of threads."""
    facts = (below.layer, below.widths, step, context, torch.get_num_threads())
    if facts not in below.forms:
        below.forms[facts] = sound_form(below, step, context)
    found: Form = below.forms[facts]
    return found


def sound_form(below: Below, step: int, context: int | None) -> Form:
    """The fastest form that is right, found on synthetic rows: no real one has a say.

    Right are states that are those of a whole row, and that do not depend on what runs beside them.
    """
    most = 2**31 if context is None else context
    # Behind one full block or two, a last one of each width.
    lengths = [BLOCK * (1 + number % 2) + last for number, last in enumerate(range(_LAST_STEP, BLOCK, _LAST_STEP))]
    plain = Form(0, 1)
    for form in (Form(size, places) for size in (BLOCK, 0) for places in (ROWS, 1)):
        tried = lengths if form.size else [min(max(lengths), most)]
        fits = max(tried) <= most
        if form == plain or (fits and all(_is_sound(BlockStates(below, form, step, context), one) for one in tried)):
            return form
    return plain


def _is_sound(states_of: BlockStates, length: int) -> bool:
    """Whether a row has the right states, and the same bits alone and in the first, a middle and the last place."""
    below = states_of.below
    rows = np.random.default_rng(0).integers(4, below.vocabulary, (ROWS, length), np.int32)
    one, others = rows[0].copy(), rows[1:].copy()
    one[0] = 2

    def states(*company: NDArray[np.int32]) -> torch.Tensor:
        blocks = blocks_of([one, *company], states_of.form.size)
        found = dict(states_of.of(blocks))
        return torch.cat([found[number] for number in blocks.rows[0]])

    try:
        alone = states()
        whole = below(torch.from_numpy(one[None].astype(np.int64)).to(below.device))[0]
        parts = zip(*(torch.split(states, list(below.widths), dim=-1) for states in (alone, whole)), strict=True)
        if not all(alike(one, other, TOLERANCE[below.dtype]) for one, other in parts):
            return False
        for before in (0, len(others) // 2, len(others)):
            others[:, 0] = np.where(np.arange(len(others)) < before, 1, 3)  # blocks run in the order of their tokens
            if not torch.equal(states(*others), alone):
                return False
    except FAILURES:
        return False
    return True
