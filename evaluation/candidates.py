"""The candidate labels as one tree of tokens, so that labels with a common beginning share its computation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

PROMPT = -1
"""Stands for the last token of the prompt where a node of the tree is meant."""


@dataclass(frozen=True)
class LabelTree:
    """Labels as token sequences, merged where they begin alike.

    Node n feeds `tokens[n]` to the model, after its ancestors. Term t says: label `labels[t]` is written only if the
    model, having read up to `nodes[t]`, writes `targets[t]`. A label's log likelihood is the sum over its terms.

    Attributes:
        count: how many labels.
        tokens, parents: of each node; a parent comes before its children; PROMPT at the first level.
        labels, nodes, targets: of each term; a node may be PROMPT.
        first_only: every label is decided by its first token, so there are no nodes and one term a label.
    """

    count: int
    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    labels: tuple[int, ...]
    nodes: tuple[int, ...]
    targets: tuple[int, ...]
    first_only: bool

    def mask(self, prompt_length: int, width: int) -> NDArray[np.bool_]:
        """Who attends to whom, bool [width, width]: prompt causally, nodes to prompt, ancestors and themselves.

        Positions: 0 .. prompt_length - 1 the prompt, then the nodes, then padding, which attends to itself.
        """
        seen = np.tril(np.ones((width, width), dtype=np.bool_))
        seen[prompt_length:, prompt_length:] = np.eye(width - prompt_length, dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent != PROMPT:
                seen[prompt_length + node, prompt_length:] |= seen[prompt_length + parent, prompt_length:]
        return seen

    @property
    def depths(self) -> NDArray[np.int64]:
        """Position of each node after the prompt, from 0."""
        found: list[int] = []
        for parent in self.parents:
            found.append(0 if parent == PROMPT else found[parent] + 1)
        return np.array(found, dtype=np.int64)


def label_tree(sequences: Sequence[Sequence[int]]) -> LabelTree:
    """Build the tree.

    Args:
        sequences: the tokens of each label, end of turn included where the model writes one. Where the first tokens
            are all different, only they count.

    Raises:
        UserError: fewer than two labels, an empty one, or two that the tokenizer cannot tell apart.
    """
    if len(sequences) < 2:
        raise UserError(f"{len(sequences)} candidate labels", "give at least two labels to choose from")
    if any(len(sequence) == 0 for sequence in sequences):
        raise UserError("a candidate label without a token", "remove empty labels")
    if len({tuple(sequence) for sequence in sequences}) < len(sequences):
        raise UserError(
            "the tokenizer makes the same tokens of two candidate labels", "merge them, or choose another model"
        )
    first_only = len({sequence[0] for sequence in sequences}) == len(sequences)
    known: dict[tuple[int, ...], int] = {(): PROMPT}
    tokens: list[int] = []
    parents: list[int] = []
    terms: list[tuple[int, int, int]] = []
    for label, whole in enumerate(sequences):
        sequence = tuple(whole[:1] if first_only else whole)
        for place, target in enumerate(sequence):
            prefix = sequence[:place]
            if prefix not in known:
                known[prefix] = len(tokens)
                tokens.append(int(prefix[-1]))
                parents.append(known[prefix[:-1]])
            terms.append((label, known[prefix], int(target)))
    labels, nodes, targets = zip(*terms, strict=True)
    return LabelTree(len(sequences), tuple(tokens), tuple(parents), labels, nodes, targets, first_only)
