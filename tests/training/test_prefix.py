"""What all rows begin with, computed once: the same states as without, or the plain computation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cotune.data.template import Example
from cotune.training.base import BaseModel
from cotune.training.forward import StatesBelow
from cotune.training.prefix import PrefixedStates, prefixed_states, shared_length
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

PREFIX = np.arange(20, 29, dtype=np.int32)
Rows = list[Example]


def behind(prefix: NDArray[np.int32], rows: Rows) -> Rows:
    return [Example(np.concatenate([prefix, row.tokens]), len(prefix) + row.answer_start, "", "") for row in rows]


def plain_states(model: Any, row: Example, layer: int = 2) -> torch.Tensor:
    tokens = torch.from_numpy(row.tokens[:-1].astype(np.int64))[None]
    states: torch.Tensor = model(input_ids=tokens, output_hidden_states=True).hidden_states[layer][0]
    return states


def assert_plain(model: Any, rows: Rows, prefix: int) -> None:
    """States behind the prefix equal one plain pass a row."""
    inputs = [row.tokens[:-1] for row in rows]
    padded = torch.zeros(len(rows), max(map(len, inputs)), dtype=torch.int64)
    for place, tokens in enumerate(inputs):
        padded[place, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
    states = prefixed_states(StatesBelow(model, 2), inputs, lambda way: way(padded))
    assert states.length == prefix
    found = states(padded)
    for place, row in enumerate(rows):
        expected = plain_states(model, row)
        assert torch.allclose(found[place, : len(expected)], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "mistral", "gemma", "gpt_neox", "phi3", "granite"])
def test_states_are_those_of_a_plain_pass(family: str, tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    model = make_base(family).model
    assert_plain(model, behind(PREFIX, tiny.rows(9)), len(PREFIX))
    assert_plain(model, tiny.rows(9), 0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_rows_at_the_edges(family: str, tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    model = make_base(family).model
    row = behind(PREFIX, tiny.rows(1))[0]
    inputs = len(row.tokens) - 1
    assert_plain(model, [row], 0)
    assert_plain(model, [row] * 5, inputs - 1)
    other = Example(row.tokens.copy(), row.answer_start, "", "")
    other.tokens[inputs - 1] = 3 if row.tokens[inputs - 1] != 3 else 4
    assert_plain(model, [row, other], inputs - 1)
    longer = Example(np.concatenate([row.tokens, row.tokens]), row.answer_start, "", "")
    assert_plain(model, [row, longer], inputs - 1)


def test_a_sliding_window_shorter_than_the_prefix(tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    assert_plain(make_base("mistral", sliding_window=5).model, behind(PREFIX, tiny.rows(9)), len(PREFIX))


@pytest.mark.parametrize("fault", ["positions", "error"])
def test_a_family_whose_states_differ_goes_without(fault: str, tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    model, rows = make_base("gpt2").model, behind(PREFIX, tiny.rows(9))

    def wrong(_module: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("past_key_values") is None or not kwargs["past_key_values"].get_seq_length():
            return None
        if fault == "error":
            raise TypeError("no such cache")
        return args, {**kwargs, "position_ids": kwargs["position_ids"] + 1}

    model.transformer.register_forward_pre_hook(wrong, with_kwargs=True)
    assert_plain(model, rows, 0)


def test_errors_do_not_hide_behind_large_states(make_base: Callable[..., BaseModel]) -> None:
    """Only a late position is wrong, by less than the tolerance of the largest state."""
    rows = [np.append(PREFIX, np.int32(token)) for token in (3, 4)]

    def some(way: PrefixedStates) -> torch.Tensor:
        states = torch.ones(2, 10, 16)
        states[:, 0] = 1e5
        states[:, -1] += 1.0 if way.length else 0.0
        return states

    assert prefixed_states(StatesBelow(make_base().model, 2), rows, some).length == 0


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), max_size=12),
)
def test_shared_length(tails: list[list[int]], head: list[int]) -> None:
    rows = [np.array(head + tail, dtype=np.int32) for tail in tails]
    shortest = min(len(row) for row in rows)
    common = [n for n in range(shortest) if all((row[:n] == rows[0][:n]).all() for row in rows)]
    expected = max(common)
    assert shared_length(rows) == (expected if len(rows) > 1 and expected >= 4 else 0)


def test_a_prefix_too_small_to_pay() -> None:
    rows = [np.append(np.arange(8, dtype=np.int32), np.full(200, token, dtype=np.int32)) for token in (3, 4)]
    assert shared_length(rows) == 0
