"""Cached hidden states: found again only for the same thing, private, and never half written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cotune.errors import UserError
from cotune.training.adapter import LoraSettings, attach
from cotune.training.base import BaseModel
from cotune.training.cuts import cut_before
from cotune.training.features import cache_features, hand_on
from cotune.training.forward import check_head
from cotune.training.tiles import Shape

TOKENS = torch.arange(3, 15)[None]


def test_states_equal_the_layers_below(tiny: Any, make_base: Callable[..., BaseModel], tmp_path: Path) -> None:
    model, rows = make_base().model, tiny.rows(9)
    features = cache_features(tmp_path / "features", cut_before(model, 2, TOKENS, 1e-4), rows, "base", 64)
    found = features.tile([4, 1], Shape(32, 4, 8), torch.device("cpu"))
    assert found.shape == (8, 32, 16)
    assert not found[2:].any()
    for place, row in enumerate([4, 1]):
        tokens = torch.from_numpy(rows[row].tokens[:-1].astype(np.int64))[None]
        states = model(input_ids=tokens, output_hidden_states=True).hidden_states[2][0]
        assert torch.allclose(found[place, : len(states)], states, atol=1e-5)
        assert not found[place, len(states) :].any()
    assert features.path.stat().st_mode & 0o777 == 0o600
    assert features.path.parent.stat().st_mode & 0o777 == 0o700


def test_states_are_found_again_only_for_the_same_thing(
    tiny: Any, make_base: Callable[..., BaseModel], tmp_path: Path
) -> None:
    model, rows = make_base().model, tiny.rows(5)
    seen: list[int] = []

    def cached(layer: int = 2, base: str = "base", seed: int = 3) -> Path:
        seen.clear()
        cut = cut_before(model, layer, TOKENS, 1e-4)
        return cache_features(tmp_path, cut, tiny.rows(5, seed), base, 64, lambda done, of: seen.append(done)).path

    first = cached()
    assert seen
    assert seen[-1] == sum(len(row.tokens) - 1 for row in rows)
    assert cached() == first
    assert not seen
    assert len({first, cached(layer=1), cached(base="other"), cached(seed=4)}) == 4
    for damage in (lambda whole: whole[:-4], lambda whole: whole[:-4] + bytes(a ^ 1 for a in whole[-4:])):
        first.write_bytes(damage(first.read_bytes()))
        assert cached() == first
        assert seen
        assert cached() == first
        assert not seen


def test_what_is_handed_on_is_what_would_be_computed(
    tiny: Any, make_base: Callable[..., BaseModel], tmp_path: Path
) -> None:
    """A row's states follow from that row alone: bit for bit."""
    rows, cut = tiny.rows(9), cut_before(make_base().model, 2, TOKENS, 1e-4)
    own, places = [rows[place] for place in (7, 2, 3)], (7, 2, 3)
    whole = cache_features(tmp_path / "whole", cut, rows, "base", 64)
    computed = cache_features(tmp_path / "computed", cut, own, "base", 64)
    hand_on(whole, places, tmp_path / "handed", cut, own, "base")

    def never(_done: int, _of: int) -> None:
        raise AssertionError("computed again")

    handed = cache_features(tmp_path / "handed", cut, own, "base", 64, never)
    for row in range(3):
        assert np.array_equal(handed.of(row), computed.of(row))
    assert handed.path.read_bytes() == computed.path.read_bytes()
    assert handed.path.stat().st_mode & 0o777 == 0o600


def test_a_failure_leaves_no_file(tiny: Any, make_base: Callable[..., BaseModel], tmp_path: Path) -> None:
    def stop(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_features(tmp_path, cut_before(make_base().model, 1, TOKENS, 1e-4), tiny.rows(5), "base", 64, stop)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_deleted(tiny: Any, make_base: Callable[..., BaseModel], tmp_path: Path) -> None:
    (tmp_path / ".states-0123.npy.4567").write_bytes(b"states of private records")
    features = cache_features(tmp_path, cut_before(make_base().model, 1, TOKENS, 1e-4), tiny.rows(5), "base", 64)
    assert {file.name for file in tmp_path.iterdir()} == {features.path.name, features.path.with_suffix(".json").name}


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "qwen2", "qwen3", "mistral", "gemma", "granite", "gpt_neox", "phi3"]
)
def test_families_that_can(family: str, make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    base = make_base(family)
    attach(base, replace(lora, top_layers=1))
    check_head(base.model, TOKENS, 1e-4)
    cut_before(base.model, 2, TOKENS, 1e-4)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_families_with_mixed_attention_are_refused_by_name(family: str, make_base: Callable[..., BaseModel]) -> None:
    model = make_base(family, layer_types=["sliding_attention", "full_attention", "sliding_attention"]).model
    check_head(model, TOKENS, 1e-4)
    with pytest.raises(UserError, match=f"'{family}' cannot start.*model.cache_features=false"):
        cut_before(model, 1, TOKENS, 1e-4)


def test_a_head_with_its_own_rule_is_refused(make_base: Callable[..., BaseModel]) -> None:
    model = make_base().model
    model.config.final_logit_softcapping = 1.0  # llama's own forward pass knows no such cap
    with pytest.raises(UserError, match="'llama' is not supported: its head"):
        check_head(model, TOKENS, 1e-4)
