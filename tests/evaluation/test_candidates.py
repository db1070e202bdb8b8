"""The tree of labels against its definition."""

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.evaluation.candidates import PROMPT, LabelTree, label_tree
from hypothesis import given
from hypothesis import strategies as st

SEQUENCES = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=2, max_size=8, unique=True
)


def path(tree: LabelTree, node: int) -> tuple[int, ...]:
    return () if node == PROMPT else (*path(tree, tree.parents[node]), tree.tokens[node])


@given(SEQUENCES)
def test_terms_spell_each_label_once(sequences: list[tuple[int, ...]]) -> None:
    tree = label_tree(sequences)
    for label, sequence in enumerate(sequences):
        scored = sequence[:1] if tree.first_only else sequence
        terms = [
            (path(tree, node), target)
            for owner, node, target in zip(tree.labels, tree.nodes, tree.targets, strict=True)
            if owner == label
        ]
        assert terms == [(scored[:place], token) for place, token in enumerate(scored)]


@given(SEQUENCES)
def test_first_tokens_decide_exactly_where_they_differ(sequences: list[tuple[int, ...]]) -> None:
    tree = label_tree(sequences)
    assert tree.first_only == (len({sequence[0] for sequence in sequences}) == len(sequences))
    if tree.first_only:
        assert tree.tokens == ()


@given(SEQUENCES)
def test_common_beginnings_are_shared(sequences: list[tuple[int, ...]]) -> None:
    tree = label_tree(sequences)
    paths = [path(tree, node) for node in range(len(tree.tokens))]
    assert len(set(paths)) == len(paths)
    if not tree.first_only:
        assert set(paths) == {sequence[:end] for sequence in sequences for end in range(1, len(sequence))}


@given(SEQUENCES, st.integers(1, 5), st.integers(0, 3))
def test_mask_shows_prompt_ancestors_and_oneself(sequences: list[tuple[int, ...]], prompt: int, padding: int) -> None:
    tree = label_tree(sequences)
    nodes = len(tree.tokens)
    mask = tree.mask(prompt, prompt + nodes + padding)
    assert np.array_equal(mask[:prompt, :prompt], np.tril(np.ones((prompt, prompt), dtype=bool)))
    assert not mask[:prompt, prompt:].any()
    for node in range(nodes):
        seen = [other for other in range(nodes) if mask[prompt + node, prompt + other]]
        mine = path(tree, node)
        assert {path(tree, other) for other in seen} == {mine[:end] for end in range(1, len(mine) + 1)}
        assert mask[prompt + node, :prompt].all()
        assert not mask[prompt + node, prompt + nodes :].any()
        assert tree.depths[node] == len(mine) - 1
    assert mask.any(axis=1).all()  # a position that sees nothing would be NaN


@pytest.mark.parametrize(
    ("sequences", "words"),
    [([(1,)], "at least two"), ([(1,), ()], "without a token"), ([(1, 2), (1, 2)], "same tokens")],
)
def test_labels_that_cannot_be_told_apart(sequences: list[tuple[int, ...]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        label_tree(sequences)
