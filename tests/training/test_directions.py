"""A basis from public rows: what its directions promise, against numbers taken by hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cotune.adapter.peft_files import LoraSettings
from cotune.errors import UserError
from cotune.training import directions, elsewhere
from cotune.training.adapter import attach
from cotune.training.base import BaseModel
from cotune.training.directions import BasisRecipe, make_basis
from cotune.training.textless import random_basis, weights_basis

RECIPE = BasisRecipe(0.25, 0.0, 0)
PATH = "model.layers.2.mlp.down_proj"


def settings(form: Any, rank: int = 6, targets: tuple[str, ...] = ("down_proj",)) -> LoraSettings:
    return LoraSettings(rank, float(rank), targets, False, 1, form)


def inputs_at_answers(base: BaseModel, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of the map, row by row: at the first answer position, and at the later ones."""
    first, later = [], []
    module = base.model.get_submodule(PATH)
    for row in rows:
        seen: list[torch.Tensor] = []
        handle = module.register_forward_hook(lambda _module, args, _out, seen=seen: seen.append(args[0][0]))
        base.model(input_ids=torch.from_numpy(row.tokens[None, :-1].astype(np.int64)))
        handle.remove()
        first.append(seen[0][row.answer_start - 1].numpy())
        later += list(seen[0][row.answer_start :].numpy())
    return np.array(first), np.array(later)


def test_directions_leave_the_means_out_and_have_unit_features(tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    base, rows = make_base(), tiny.rows(40)
    given = make_basis(base, settings("ffa"), rows, answers(rows), RECIPE).modules[PATH]
    assert given.inputs.shape == (6, 24)
    assert given.outputs is None
    first, later = inputs_at_answers(base, rows)
    for mean in (first.mean(0), later.mean(0)):
        assert np.abs(given.inputs @ mean).max() < 1e-5 * np.linalg.norm(mean)
    assert np.linalg.norm(first @ given.inputs.T, axis=1).mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("form", ["ffa", "core"])
def test_directions_leave_those_of_other_text_out(
    form: Any, tiny: Any, make_base: Callable[..., BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 24 inputs a quarter: what prose and prompts are mostly made of does not reach the core."""
    base, rows = make_base(), tiny.rows(40)
    words = np.random.default_rng(4).integers(3, 64, 500)
    monkeypatch.setattr(elsewhere, "prose", lambda: " ".join(f"word{word}" for word in words))
    other = elsewhere.elsewhere(base, {PATH: base.model.get_submodule(PATH)}, rows)[PATH]
    windows = -(-500 // min(256, base.model.config.max_position_embeddings))
    assert len(other) == 500 - windows + sum(max(0, row.answer_start - 2) for row in rows[:32])
    assert np.allclose(np.linalg.norm(other, axis=1), 1)
    given = make_basis(base, settings(form), rows, answers(rows), BasisRecipe(0.25, 0.25, 0)).modules[PATH].inputs
    leading = np.linalg.svd(other, full_matrices=False)[2][:6]
    assert np.abs(given @ leading.T).max() < 1e-5 * np.abs(given).max()
    first, later = inputs_at_answers(base, rows)
    for mean in (first.mean(0), later.mean(0)):
        assert np.abs(given @ mean).max() < 1e-5 * np.linalg.norm(mean)
    assert np.linalg.norm(first @ given.T, axis=1).mean() == pytest.approx(1, rel=1e-4)


def test_no_more_directions_are_spared_than_some_positions_share(
    tiny: Any, make_base: Callable[..., BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies beyond them is arbitrary, and would cost V directions that it needs. Positions without inputs go."""
    base, rows = make_base(), tiny.rows(40)
    few = np.zeros((9, 24))
    few[:8, :8] = np.eye(8)
    monkeypatch.setattr(directions, "elsewhere", lambda *_: {PATH: few})
    given = make_basis(base, settings("ffa"), rows, answers(rows), BasisRecipe(0.25, 0.5, 0)).modules[PATH].inputs
    assert (np.abs(given[:, :8]).max(0) < 1e-6).sum() == 9 // 4
    monkeypatch.setattr(elsewhere, "watched", _zeros)
    assert elsewhere.elsewhere(base, {PATH: base.model.get_submodule(PATH)}, rows)[PATH].shape == (0, 24)


@contextmanager
def _zeros(maps: Any) -> Iterator[Any]:
    yield {path: torch.zeros(1, 2, 24) for path in maps}, {}


def test_the_leading_direction_is_that_of_the_largest_variance(tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    base, rows = make_base(), tiny.rows(40)
    given = make_basis(base, settings("ffa"), rows, answers(rows), BasisRecipe(0.0, 0.0, 0)).modules[PATH].inputs
    first, _ = inputs_at_answers(base, rows)
    spread = (first @ (given / np.linalg.norm(given, axis=1)[:, None]).T).std(0)
    assert (np.diff(spread) < 1e-6).all()
    whitened = make_basis(base, settings("ffa"), rows, answers(rows), BasisRecipe(0.5, 0.0, 0)).modules[PATH].inputs
    even = (first @ whitened.T).std(0)
    assert even.max() / even.min() < (spread.max() / spread.min()) ** 0.7


def test_looking_at_all_positions_scales_over_all(tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    base, rows = make_base(), tiny.rows(40)
    first, later = inputs_at_answers(base, rows)
    scale = {}
    for first_only in (True, False):
        recipe = replace(RECIPE, first_only=first_only)
        given = make_basis(base, settings("ffa"), rows, answers(rows), recipe).modules[PATH].inputs
        for mean in (first.mean(0), later.mean(0)):
            assert np.abs(given @ mean).max() < 1e-5 * np.linalg.norm(mean)
        scale[first_only] = np.linalg.norm(np.concatenate([first, later]) @ given.T, axis=1).mean()
    assert scale[False] == pytest.approx(1, rel=1e-4)
    assert scale[True] != pytest.approx(1, rel=1e-2)


def test_a_core_moves_the_logits_of_the_answers_one_by_one(tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    """A step along one direction of U raises one token's logit by 1 in the mean, to first order."""
    base, rows = make_base(), tiny.rows(40)
    rows = [replace(row, tokens=np.append(row.tokens[: row.answer_start], 7 + number % 3).astype(np.int32))
            for number, row in enumerate(rows)]  # fmt: skip
    given = make_basis(base, settings("core"), rows, answers(rows), RECIPE).modules[PATH]
    assert given.outputs is not None
    assert given.outputs.shape == (16, 3)
    changes = np.zeros((3, 3))
    module = base.model.get_submodule(PATH)
    for row in rows:
        tokens = torch.from_numpy(row.tokens[None, :-1].astype(np.int64))
        before = base.model(input_ids=tokens).logits[0, -1]
        for column in range(3):
            step = torch.from_numpy(1e-3 * given.outputs[:, column])
            handle = module.register_forward_hook(lambda _module, _args, out, step=step: out + step)
            after = base.model(input_ids=tokens).logits[0, -1]
            handle.remove()
            changes[column] += ((after - before) / 1e-3)[[7, 8, 9]].numpy() / len(rows)
    assert np.allclose(changes, np.eye(3), atol=0.05)


def test_it_is_the_same_again_and_follows_from_the_rows(tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    seen: list[int] = []

    def make(rows: Any, **changes: Any) -> str:
        lora = replace(settings("core"), **changes)
        return make_basis(make_base(), lora, rows, answers(rows), RECIPE, lambda done, _of: seen.append(done)).digest

    one = make(tiny.rows(40))
    assert seen[-1] == sum(len(row.tokens) - 1 for row in tiny.rows(40))
    assert make(tiny.rows(40)) == one
    assert make(tiny.rows(40, seed=4)) != one
    assert make(tiny.rows(40), rank=5) != one


def test_the_vocabulary_of_the_loss_holds_the_answers(tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    rows = tiny.rows(20)
    known = answers(rows)

    def tokens(count: int) -> list[int]:
        basis = make_basis(make_base(), settings("ffa"), rows, known, BasisRecipe(0.25, 0.0, count))
        return [int(token) for token in basis.tokens]

    assert len(tokens(len(known) + 5)) == len(known) + 5
    assert set(known) <= set(tokens(len(known) + 5))
    assert tokens(3) == known
    assert tokens(0) == []


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma", "gpt_neox"])
def test_every_map_of_a_family_gets_directions_that_fit(
    family: str, tiny: Any, make_base: Callable[..., BaseModel]
) -> None:
    for form in ("ffa", "core"):
        lora = settings(form, 5, ("all-linear",))
        for basis in (
            make_basis(make_base(family), lora, tiny.rows(30), answers(tiny.rows(30)), RECIPE),
            random_basis(make_base(family), lora, 4, 1),
            weights_basis(make_base(family), lora),
        ):
            attach(make_base(family), replace(lora, basis=basis))


def test_no_room_for_so_many_directions_is_a_sentence(tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    for rows, rank, match in (
        (6, 6, r"6 public rows make no 6 directions: give more public text, or set model\.lora\.rank to 5 or less"),
        (40, 23, r"down_proj has 24 inputs, too few for 23 directions: set model\.lora\.rank to 22 or less"),
    ):
        with pytest.raises(UserError, match=match):
            make_basis(make_base(), settings("ffa", rank), tiny.rows(rows), [5], RECIPE)
    assert make_basis(make_base(), settings("ffa", 22), tiny.rows(40), [5], RECIPE)


def answers(rows: Any) -> list[int]:
    return sorted({int(token) for row in rows for token in row.tokens[row.answer_start :]})
