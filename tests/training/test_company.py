"""Whoever chooses the adapter, and one unit besides, cannot change what any other unit adds: not by a bit.

The adversary here looks for an adapter at which one long unit more changes everybody else's part of the sum. The last
bits of a gradient are enough: at a crafted adapter clipping makes vectors as long as the clip norm of them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cotune.adapter.basis import Basis, Directions
from cotune.adapter.forms import as_lora
from cotune.adapter.schema import AdapterSchema
from cotune.data.template import Example
from cotune.data.units import Units
from cotune.errors import UserError
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import PrivacyTerms
from cotune.training.adapter import LoraSettings, attach, schema_of
from cotune.training.base import BaseModel
from cotune.training.company import adapters, gains_of
from cotune.training.layers import decoder_layers
from cotune.training.textless import random_basis
from cotune.training.tiles import Shape
from cotune.training.trainer import Trainer
from numpy.typing import NDArray
from torch import nn

TERMS = PrivacyTerms(True, "patient", 8.0, 1e-5, 1.0, 1.0, 1.0, 20, 10.0, 0.1)
SIZES = (1, 9, 2)
FAMILIES = ("llama", "qwen3", "gpt2")
LONG = 3
"""The unit that comes and goes: one long row, and one that stands among the others' in their tile."""


def rows_and_units(seed: int = 3) -> tuple[list[Example], Units]:
    """Short rows, some of them in another shape than the rest of their unit; one unit is larger than a tile."""
    generator = np.random.default_rng(seed)
    rows: list[Example] = []
    owned = []
    for size in SIZES:
        owned.append(tuple(range(len(rows), len(rows) + size)))
        for _ in range(size):
            length, answer = int(generator.integers(20, 45)), int(generator.integers(1, 4))
            rows.append(Example(generator.integers(3, 64, length, dtype=np.int32), length - answer, "", ""))
    owned.append((len(rows), len(rows) + 1))
    for length in (64, 12):
        rows.append(Example(generator.integers(3, 64, length, dtype=np.int32), length - 2, "", ""))
    return rows, Units(tuple(map(str, range(len(owned)))), tuple(owned))


def base_of(tiny: Any, family: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> BaseModel:
    model = tiny.model(family, num_hidden_layers=2).to(dtype)
    model.set_attn_implementation(attention)
    return BaseModel(model, tiny.tokenizer(), f"{family} {dtype}", "tokens", family)


def trainer_of(base: BaseModel, folder: Path | None = None, **options: Any) -> Trainer:
    lora = LoraSettings(2, 4.0, ("all-linear",), False, 0 if folder is None else 1)
    rows, units = rows_and_units()
    return Trainer(base, lora, rows, units, 1024, folder, **options)


def crafted(schema: AdapterSchema, count: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Adapters of an adversary: those of the check at start, and random ones, spread over maps and magnitudes."""
    yield from adapters(schema)
    generator = np.random.default_rng(seed)
    for _ in range(count):
        adapter = np.zeros(schema.dimension, dtype=np.float32)
        for matrix in schema.split(adapter).values():
            scale = 10.0 ** generator.uniform(-2, 5) if generator.random() < 0.6 else 0.0
            matrix[...] = scale * generator.standard_normal(matrix.shape)
            if generator.random() < 0.4:  # of rank one
                matrix[...] = np.sign(matrix[:1]) * scale
        yield adapter


def change(trainer: Trainer, adapter: NDArray[np.float32]) -> float:
    """How far the long unit moves what the others add: the L2 norm of (sum with it) - (sum without it) - (it alone)."""
    everybody = range(len(trainer.units.ids))
    whole, without, alone = (
        trainer.clipped_sum(adapter, units, TERMS, SeededRandomness(0))
        for units in (everybody, everybody[:LONG], [LONG])
    )
    assert np.isfinite(whole).all()
    assert np.linalg.norm(alone) <= TERMS.sensitivity
    return float(np.linalg.norm(whole - without - alone))


def search(trainer: Trainer, count: int, seed: int = 0) -> None:
    for adapter in crafted(trainer.schema, count, seed):
        assert change(trainer, adapter) == 0.0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cached", [False, True], ids=["all layers", "last layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_unit_changes_what_others_add(
    family: str, cached: bool, dtype: torch.dtype, tiny: Any, tmp_path: Path
) -> None:
    trainer = trainer_of(base_of(tiny, family, dtype), tmp_path if cached else None)
    assert trainer.way == "flat buffer"
    search(trainer, 2)


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES, "gemma", "phi3", "gpt_neox"])
@pytest.mark.parametrize("cached", [False, True], ids=["all layers", "last layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_unit_changes_what_others_add_long(
    family: str, cached: bool, dtype: torch.dtype, tiny: Any, tmp_path: Path
) -> None:
    search(trainer_of(base_of(tiny, family, dtype), tmp_path if cached else None), 8, seed=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_two_threads(dtype: torch.dtype, tiny: Any) -> None:
    trainer, before = trainer_of(base_of(tiny, "llama", dtype)), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert change(trainer, list(adapters(trainer.schema))[1]) == 0.0
    finally:
        torch.set_num_threads(before)


def test_with_eager_attention(tiny: Any) -> None:
    search(trainer_of(base_of(tiny, "qwen3", attention="eager")), 1)


def test_by_hooks(tiny: Any) -> None:
    trainer = trainer_of(base_of(tiny, "llama"), hooks=True)
    assert trainer.way == "hooks"
    search(trainer, 2)


def test_the_search_finds_what_it_looks_for(tiny: Any) -> None:
    """Where shapes follow from the longest row, as they once did, one unit moves the sum by more than a clip norm."""
    trainer = trainer_of(base_of(tiny, "llama"))
    original = trainer._unit_gradients

    def padded(units: Sequence[Sequence[int]]) -> Any:
        longest = max(len(trainer.examples[row].tokens) for unit in units for row in unit)
        trainer._shapes = [Shape(longest - 1, 4, 8)] * len(trainer.examples)
        return original(units)

    trainer._unit_gradients = padded  # type: ignore[method-assign]
    assert max(change(trainer, adapter) for adapter in crafted(trainer.schema, 10, 0)) > TERMS.max_grad_norm


class Mixing(nn.Module):
    """A module whose outputs take a little from all rows of the batch, too little to be seen in a gradient's norm."""

    def __init__(self, inner: nn.Module, part: float) -> None:
        super().__init__()
        self.inner, self.part, self.calls = inner, part, 0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.inner(states)
        return outputs + self.part * outputs.detach().mean()


class Remembering(Mixing):
    """It takes a little from what it was called with before."""

    before: torch.Tensor | float = 0.0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.inner(states)
        outputs, self.before = outputs + self.part * self.before, outputs.detach().mean()
        return outputs


@pytest.mark.parametrize("hooks", [False, True], ids=["flat buffer", "hooks"])
def test_a_model_that_mixes_rows_computes_each_alone(hooks: bool, tiny: Any) -> None:
    base = base_of(tiny, "llama")
    layer: Any = decoder_layers(base.model)[0]
    layer.input_layernorm = Mixing(layer.input_layernorm, 1e-6)
    trainer = trainer_of(base, hooks=hooks)
    assert trainer.way == ("hooks" if hooks else "flat buffer") + ", each row alone"
    wide = list(adapters(trainer.schema))[1]
    assert change(trainer, wide) == 0.0
    # The faster way would not do.
    trainer._way = replace(trainer._way, alone=False)
    assert change(trainer, wide) > 0.0


def test_a_model_that_remembers_is_refused_by_name(tiny: Any) -> None:
    base = base_of(tiny, "llama")
    layer: Any = decoder_layers(base.model)[0]
    layer.input_layernorm = Remembering(layer.input_layernorm, 1e-6)
    with pytest.raises(UserError, match="model family 'llama' depend on what else is computed") as caught:
        trainer_of(base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "hooks"), [(RuntimeError, False), (MemoryError, False), (ValueError, False), (RuntimeError, True)]
)
def test_a_unit_that_cannot_be_computed_costs_nobody_else(
    error: type[Exception], hooks: bool, tiny: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Units of one row and of many, in tiles with others: they count as clipped, with the largest loss."""
    trainer = trainer_of(base_of(tiny, "llama"), hooks=hooks)
    adapter = next(adapters(trainer.schema))
    good = trainer.clipped_sum(adapter, [0, 3], TERMS, SeededRandomness(0))
    bad = {trainer.units.rows[1][7], trainer.units.rows[2][0]}
    words = {tuple(trainer.examples[row].tokens[:-1].tolist()) for row in bad}
    full = type(trainer._losses._full)
    right = full.__call__

    def fails(self: Any, inputs: torch.Tensor) -> torch.Tensor:
        if any(tuple(row.tolist()[: len(word)]) == word for row in inputs for word in words):
            raise error("of the data: 17")
        return right(self, inputs)

    monkeypatch.setattr(full, "__call__", fails)
    with caplog.at_level(logging.WARNING, logger="cotune.training"):
        total = trainer.clipped_sum(adapter, [0, 1, 2, 3], TERMS, SeededRandomness(0))
    assert trainer.dropped == 2
    assert np.array_equal(total[:-3], good[:-3])
    assert (total - good)[-3:].tolist() == pytest.approx([0.2, 0.2, 0.2])
    assert [record.message for record in caplog.records] == [f"a unit is left out of this step: {error.__name__}"] * 2
    assert len(trainer.private_sum(adapter, TERMS, SeededRandomness(0))) == len(total)


def test_who_stops_the_work_stops_it(tiny: Any) -> None:
    def stop(what: str, done: int, of: int) -> None:
        raise ConnectionError

    trainer = trainer_of(base_of(tiny, "llama"))
    trainer._progress = stop
    with pytest.raises(ConnectionError):
        trainer.private_sum(next(adapters(trainer.schema)), TERMS, SeededRandomness(0))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 3e38])
def test_a_step_ends_at_any_adapter(value: float, tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Also where nothing moves: noise goes on, and only the local log says so."""
    trainer = trainer_of(base_of(tiny, "llama"))
    adapter = np.full(trainer.schema.dimension, value, dtype=np.float32)
    with caplog.at_level(logging.WARNING, logger="cotune.training"):
        total = trainer.private_sum(adapter, TERMS, SeededRandomness(0))
    assert total.std() == pytest.approx(TERMS.noise_std, rel=0.2)
    assert any("every sampled unit is zero" in record.message for record in caplog.records)


def sizes_of(form: Any, scale: float, make_base: Callable[..., BaseModel]) -> list[float]:
    """The Frobenius norms of what the probes add to a map's weights, where alpha or the directions have a scale."""
    lora = LoraSettings(4, 4.0, ("down_proj",), False, 1, form)
    if form == "lora":
        lora = replace(lora, alpha=4.0 * scale)
    else:
        ((path, given),) = random_basis(make_base(), lora, 3, 1).modules.items()
        lora = replace(lora, basis=Basis({path: Directions(np.float32(scale) * given.inputs, given.outputs)}))
    model = attach(make_base(), lora)
    schema, sizes = schema_of(model), []
    for adapter in adapters(schema, gains_of(model, schema)):
        released, shapes, flat = as_lora(lora, schema, adapter)
        matrices = shapes.split(flat)
        left, right = (matrices[name].astype(float) for name in sorted(matrices, reverse=True))
        sizes.append(float(np.linalg.norm(left @ right)) * released.alpha / released.rank)
    return sizes


@pytest.mark.parametrize("scale", [1e-8, 1e6])
@pytest.mark.parametrize("form", ["lora", "ffa", "core"])
def test_probes_change_weights_as_much_whatever_scale_was_agreed(
    form: Any, scale: float, make_base: Callable[..., BaseModel]
) -> None:
    """Whoever drafts a charter chooses alpha and directions, and could make every probe an ordinary one."""
    plain = sizes_of(form, 1.0, make_base)
    assert plain[0] < plain[1] / 100 < plain[2] / 100
    assert sizes_of(form, scale, make_base) == pytest.approx(plain, rel=1e-2)
