"""Cuts: the latest that a family allows is found, and a step from it is the step through all layers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cotune.adapter.basis import Basis
from cotune.adapter.peft_files import LoraSettings
from cotune.errors import UserError
from cotune.privacy.sampling import SystemRandomness
from cotune.training.adapter import attach, schema_of
from cotune.training.base import BaseModel
from cotune.training.cuts import Cut, find_cut
from cotune.training.directions import BasisRecipe, make_basis
from cotune.training.textless import random_basis
from cotune.training.trainer import Trainer

TOKENS = torch.arange(3, 15)[None]
DOWN = {"gpt2": "c_proj", "gpt_neox": "dense_4h_to_h"}
FAMILIES = [
    "llama",
    "gpt2",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma",
    "granite",
    "gpt_neox",
    "phi3",
    "gemma2",
    "gemma3_text",
]


def answers(rows: Any) -> list[int]:
    return sorted({int(token) for row in rows for token in row.tokens[row.answer_start :]})


def settings(base: BaseModel, form: Any, targets: tuple[str, ...], top_layers: int = 1) -> LoraSettings:
    lora = LoraSettings(4, 4.0, targets, False, top_layers, form)
    return lora if form == "lora" else replace(lora, basis=random_basis(base, lora, 3, 5))


def cut_of(base: BaseModel, lora: LoraSettings) -> Cut:
    schema = schema_of(attach(base, lora))
    return find_cut(base.model, schema.modules, min(schema.layers), TOKENS, 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_map_behind_the_last_attention_needs_answers_only(family: str, make_base: Callable[..., BaseModel]) -> None:
    base = make_base(family)
    target = DOWN.get(family, "down_proj")
    lora = settings(base, "core", (target,))
    if family == "gpt2":  # its attention ends in a map of the same name
        lora = LoraSettings(4, 4.0, ("c_fc",), False, 1)
    cut = cut_of(base, lora)
    hidden = base.model.config.hidden_size
    assert cut.answers_only
    if family != "gpt2":
        inner = 4 * hidden if family == "gpt_neox" and base.model.config.intermediate_size == 4 * hidden else 24
        assert sum(cut.below.widths) == 2 * hidden + inner


@pytest.mark.parametrize(
    ("form", "targets", "layers", "answers_only", "width"),
    [
        ("core", ("down_proj",), 1, True, 16 + 16 + 24),
        ("lora", ("up_proj",), 1, False, 0),
        ("lora", ("gate_proj", "up_proj", "down_proj"), 1, True, 16 + 16),
        ("lora", ("o_proj",), 1, False, 16),
        ("lora", ("all-linear",), 1, False, 16),
        ("core", ("down_proj",), 2, False, 16),
    ],
    ids=str,
)
def test_the_latest_cut_is_found(
    form: str,
    targets: tuple[str, ...],
    layers: int,
    answers_only: bool,
    width: int,
    make_base: Callable[..., BaseModel],
) -> None:
    base = make_base()
    cut = cut_of(base, settings(base, form, targets, layers))
    if targets == ("up_proj",):  # what goes around it also needs the gate: only its own input could be kept
        assert cut.answers_only
        assert sum(cut.below.widths) == 16 + 16
        return
    assert (cut.answers_only, sum(cut.below.widths)) == (answers_only, width)


def test_a_last_layer_that_mixes_positions_behind_its_attention_is_not_cut_there(
    make_base: Callable[..., BaseModel],
) -> None:
    """As one with a second mixer beside attention (Falcon-H1): at neighboring positions it would not show."""
    base = make_base()
    model = attach(base, settings(make_base(), "core", ("down_proj",)))
    base.model.model.layers[-1].mlp.register_forward_hook(
        lambda _module, _args, out: out + 0.3 * torch.nn.functional.pad(out, (0, 0, 1, 0))[:, :-1]
    )
    cut = find_cut(base.model, schema_of(model).modules, 2, TOKENS, 1e-4)
    assert not cut.answers_only


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocabulary", [0, 40])
@pytest.mark.parametrize("form", ["lora", "ffa", "core"])
def test_a_step_from_the_cut_is_the_step_through_all_layers(
    form: str, vocabulary: int, dtype: torch.dtype, tiny: Any, make_base: Callable[..., BaseModel], terms: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    rows, units = tiny.rows(30), tiny.units([3, 2, 4, 1, 20])
    lora = LoraSettings(4, 3.0, ("down_proj",), False, 1, form)
    if form != "lora":
        recipe = BasisRecipe(0.25, 0.16, vocabulary)
        lora = replace(lora, basis=make_basis(make_base(), lora, rows, answers(rows), recipe))

    def trainer(folder: Path | None) -> Trainer:
        base = make_base()
        base.model.to(dtype)
        return Trainer(base, lora, rows, units, 64, folder)

    plain, cached = trainer(None), trainer(tmp_path)
    adapter = 0.3 * np.random.default_rng(2).standard_normal(plain.schema.dimension).astype(np.float32)
    every = replace(terms, records_per_unit=20)
    sums = [one.clipped_sum(adapter, range(5), every, SystemRandomness()) for one in (plain, cached)]
    assert np.abs(sums[0] - sums[1]).max() < (1e-5 if dtype == torch.float32 else 0.1) * np.abs(sums[0]).max()
    assert plain.loss(adapter, range(30)) == pytest.approx(cached.loss(adapter, range(30)), rel=1e-2)


@pytest.mark.parametrize("strange", [False, True], ids=["agreed", "strange"])
def test_the_loss_is_taken_over_the_agreed_tokens_and_each_target(
    strange: bool, tiny: Any, make_base: Callable[..., BaseModel], terms: Any
) -> None:
    """A record with another token is not refused, which would tell the drafter who holds one, and teaches as well."""
    rows = tiny.rows(12)
    lora = LoraSettings(4, 4.0, ("down_proj",), False, 1, "ffa")
    basis = make_basis(make_base(), lora, rows, answers(rows), BasisRecipe(0.25, 0.0, 45))
    if strange:
        rows[3].tokens[-1] = next(token for token in range(3, 64) if token not in basis.tokens)
    trainer = Trainer(make_base(), replace(lora, basis=basis), rows, tiny.units([1] * 12), 64, None)
    adapter = np.zeros(trainer.schema.dimension, dtype=np.float32)
    expected = []
    for row in rows:
        tokens = torch.from_numpy(row.tokens.astype(np.int64))
        logits = make_base().model(input_ids=tokens[None, :-1]).logits[0, row.answer_start - 1 :]
        targets = tokens[row.answer_start :]
        kept = torch.full_like(logits, -torch.inf)
        kept[:, basis.tokens] = logits[:, basis.tokens]
        kept[range(len(logits)), targets] = logits[range(len(logits)), targets]
        expected.append(-kept.log_softmax(-1)[range(len(logits)), targets].mean())
    assert trainer.loss(adapter, range(12)) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)
    unit = next(number for number, own in enumerate(trainer.units.rows) if own == (3,))
    assert trainer.clipped_sum(adapter, [unit], terms, SystemRandomness())[: trainer.schema.dimension].any()


def test_tokens_that_the_model_lacks_are_a_sentence(tiny: Any, make_base: Callable[..., BaseModel]) -> None:
    lora = settings(make_base(), "ffa", ("down_proj",))
    lora = replace(lora, basis=Basis(lora.basis.modules, np.array([3, 64], dtype=np.int32)))
    with pytest.raises(UserError, match="tokens that the model lacks"):
        Trainer(make_base(), lora, tiny.rows(4), tiny.units([4]), 64, None)


def test_only_answers_are_kept(tiny: Any, make_base: Callable[..., BaseModel], tmp_path: Path) -> None:
    base, rows = make_base(), tiny.rows(9)
    lora = settings(make_base(), "core", ("down_proj",))
    Trainer(base, lora, rows, tiny.units([9]), 64, tmp_path)
    (file,) = tmp_path.glob("*.npy")
    assert np.load(file).shape == (sum(len(row.tokens) - row.answer_start for row in rows), 56)


def test_no_unit_moves_anothers_gradient_by_a_bit(
    tiny: Any, make_base: Callable[..., BaseModel], tmp_path: Path
) -> None:
    """At an adapter that blows roundings up, from the cut."""
    lora = settings(make_base(), "core", ("down_proj",))
    rows = tiny.rows(70)
    found = []
    for count in (1, 30, 70):
        trainer = Trainer(make_base(), lora, rows[:count], tiny.units([1] * count), 4096, tmp_path / str(count))
        adapter = 1e4 * np.random.default_rng(2).standard_normal(trainer.schema.dimension).astype(np.float32)
        trainer._set(adapter)
        unit = next(number for number, own in enumerate(trainer.units.rows) if own == (0,))
        everybody = [trainer.units.rows[unit], *(own for own in trainer.units.rows if own != (0,))]
        found.append(trainer._unit_gradients(everybody)[0][0])
    assert all(torch.equal(found[0], other) for other in found[1:])
