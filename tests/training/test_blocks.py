"""Rows in blocks: the states of a plain pass, equal beginnings run once, and no row changes a bit of another's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cotune.data.template import Example
from cotune.training.base import BaseModel
from cotune.training.blocks import BLOCK, BlockStates, Form, _Walk, blocks_of, sound_form
from cotune.training.cuts import cut_before
from cotune.training.features import cache_features
from cotune.training.forward import StatesBelow
from cotune.training.tiles import Shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

CONTEXT = 256
TOKENS = torch.arange(3, 15)[None]
BLOCKS = Form(BLOCK, 8)
PREFIX = np.random.default_rng(8).integers(3, 64, 101, dtype=np.int32)
FAMILIES = ["llama", "gpt2", "qwen2", "mistral", "gemma", "gpt_neox", "phi3", "granite"]


def rows_of(tails: tuple[int, ...], prefix: NDArray[np.int32] = PREFIX) -> list[NDArray[np.int32]]:
    generator = np.random.default_rng(9)
    return [np.concatenate([prefix, generator.integers(3, 64, tail, dtype=np.int32)]) for tail in tails]


def long(make_base: Callable[..., BaseModel], family: str = "llama", **changes: Any) -> Any:
    name = "n_positions" if family == "gpt2" else "max_position_embeddings"
    return make_base(family, **{name: CONTEXT, **changes}).model


def states_of(model: Any, rows: list[NDArray[np.int32]], form: Form | None = None) -> list[torch.Tensor]:
    """The states of each row, put together from its blocks."""
    below = StatesBelow(model, 2)
    form = form or sound_form(below, 32, CONTEXT)
    blocks = blocks_of(rows, form.size)
    found = dict(BlockStates(below, form, 32, CONTEXT).of(blocks))
    assert sorted(found) == list(range(len(blocks.every)))
    return [torch.cat([found[number] for number in chain]) for chain in blocks.rows]


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_a_plain_pass(family: str, make_base: Callable[..., BaseModel]) -> None:
    model, rows = long(make_base, family), rows_of((3, 40, 1, 140))
    assert sound_form(StatesBelow(model, 2), 32, CONTEXT) == BLOCKS
    for states, row in zip(states_of(model, rows), rows, strict=True):
        tokens = torch.from_numpy(row.astype(np.int64))[None]
        plain = model(input_ids=tokens, output_hidden_states=True).hidden_states[2][0]
        assert torch.allclose(states, plain, atol=1e-5)


@pytest.mark.parametrize("form", [Form(0, 1), Form(0, 8), Form(BLOCK, 1), BLOCKS], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_row_changes_a_bit_of_another(form: Form, dtype: torch.dtype, make_base: Callable[..., BaseModel]) -> None:
    """Neither a longer row, nor one that shares less, or all, of what the others begin with."""
    model = long(make_base).to(dtype)
    rows = rows_of((3, 40, 1))
    before = states_of(model, rows, form)
    for other in (*rows_of((150,)), PREFIX[:5], PREFIX[:64], rows[1], rows_of((9,), PREFIX[::-1])[0]):
        after = states_of(model, [*rows[:1], other, *rows[1:]], form)
        assert all(torch.equal(one, two) for one, two in zip(before, [after[0], *after[2:]], strict=True))


def test_what_rows_begin_with_runs_once(make_base: Callable[..., BaseModel]) -> None:
    model, rows, ran = long(make_base), rows_of((8,) * 30), []
    model.model.layers[0].mlp.register_forward_hook(lambda _module, _args, out: ran.append(out[..., 0].numel()))
    states_of(model, rows, Form(BLOCK, 1))
    assert ran == [BLOCK] * 3 + [16] * 30
    ran.clear()
    states_of(model, rows, BLOCKS)
    assert ran == [8 * BLOCK] * 3 + [8 * 16] * 4


@pytest.mark.parametrize("places", [1, 3, 8])
def test_few_keys_are_kept(places: int) -> None:
    """However many rows there are, also where no two begin alike."""
    generator = np.random.default_rng(9)
    rows = [generator.integers(3, 64, int(length), dtype=np.int32) for length in generator.integers(1, 2000, 200)]
    blocks = blocks_of(rows, BLOCK)
    walk = _Walk(blocks.every, [BLOCK] * len(blocks.every))
    most, groups, ran = 0, 0, []
    while group := walk.next(places):
        assert all(blocks.every[number].parent in (-1, *walk.keys) for number in group)
        assert len(group) <= places
        for number in group:
            walk.done(number, [])
            most = max(most, len(walk.keys))
        groups += 1
        ran += group
    assert sorted(ran) == list(range(len(blocks.every)))
    assert not walk.keys
    assert most <= 256 + places * (2000 // BLOCK)
    assert len(ran) > 0.6 * places * groups


@pytest.mark.parametrize("bits", ["place", "company"])
def test_company_that_shows_means_a_block_at_a_time(bits: str, make_base: Callable[..., BaseModel]) -> None:
    """As on a machine whose products round by place, or by how many rows there are."""
    model = long(make_base)

    def rounded(_module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
        if bits == "place":
            return out * (1 + 1e-6 * torch.arange(len(out))[:, None, None])
        return out + 1e-6 * out.std()

    model.model.layers[0].mlp.register_forward_hook(rounded)
    assert sound_form(StatesBelow(model, 2), 32, CONTEXT) == Form(BLOCK, 1)


@pytest.mark.parametrize("fault", ["positions", "error"])
def test_a_family_whose_states_differ_runs_rows_whole(fault: str, make_base: Callable[..., BaseModel]) -> None:
    model = long(make_base, "gpt2")

    def wrong(_module: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("past_key_values") is None or not kwargs["past_key_values"].get_seq_length():
            return None
        if fault == "error":
            raise TypeError("no such cache")
        return args, {**kwargs, "position_ids": kwargs["position_ids"] + 1}

    model.transformer.register_forward_pre_hook(wrong, with_kwargs=True)
    assert sound_form(StatesBelow(model, 2), 32, CONTEXT).size == 0
    states = states_of(model, rows_of((3,)))[0]
    assert torch.isfinite(states).all()


def test_a_sliding_window_shorter_than_a_block(make_base: Callable[..., BaseModel]) -> None:
    model, row = long(make_base, "mistral", sliding_window=5), rows_of((30,))[0]
    tokens = torch.from_numpy(row.astype(np.int64))[None]
    plain = model(input_ids=tokens, output_hidden_states=True).hidden_states[2][0]
    assert torch.allclose(states_of(model, [row], BLOCKS)[0], plain, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_up_to_the_end_of_the_context(family: str, make_base: Callable[..., BaseModel], tmp_path: Path) -> None:
    """Padding ends where the model's positions do."""
    model = make_base(family, **{"n_positions" if family == "gpt2" else "max_position_embeddings": 200}).model
    row = Example(np.random.default_rng(0).integers(3, 64, 199, dtype=np.int32), 190, "", "")
    shape = Shapes(4096, 8, 200).of(row)
    assert shape.positions == 200
    features = cache_features(tmp_path, cut_before(model, 2, TOKENS, 1e-3), [row], "base", 200)
    found = features.tile([0], shape, torch.device("cpu"))[0, :198]
    tokens = torch.from_numpy(row.tokens[None, :-1].astype(np.int64))
    assert torch.allclose(found, model(input_ids=tokens, output_hidden_states=True).hidden_states[2][0], atol=1e-5)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=8), st.integers(0, 5))
def test_blocks_make_the_rows(rows: list[list[int]], size: int) -> None:
    """Each once, depth first, parents before children."""
    blocks = blocks_of([np.array(row, dtype=np.int32) for row in rows], size)
    for row, chain in zip(rows, blocks.rows, strict=True):
        parts = [blocks.every[number] for number in chain]
        assert np.concatenate([part.tokens for part in parts]).tolist() == row
        assert [part.parent for part in parts] == [-1, *chain[:-1]]
        assert [part.first for part in parts] == [place * size for place in range(len(parts))]
    kept = [(block.parent, block.tokens.tobytes()) for block in blocks.every]
    assert len(set(kept)) == len(kept)
    path: list[int] = []
    for number, block in enumerate(blocks.every):
        while path and path[-1] != block.parent:
            path.pop()
        assert block.parent == (path[-1] if path else -1)
        path.append(number)
    assert blocks.tokens == sum(len(block.tokens) for block in blocks.every)
