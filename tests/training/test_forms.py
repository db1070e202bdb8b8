"""Forms of an adapter: gradients of what is trained, and the export as plain LoRA, against slow references."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cotune.adapter.basis import Basis, Directions, load_basis
from cotune.adapter.forms import as_lora
from cotune.adapter.peft_files import LoraSettings, export_peft
from cotune.adapter.schema import module_of
from cotune.errors import UserError
from cotune.privacy.sampling import SystemRandomness
from cotune.training.adapter import attach, detach, get_flat, initial, parameters_of, schema_of, set_flat, untouched
from cotune.training.base import BaseModel
from cotune.training.trainer import Trainer
from peft import PeftModel
from torch.autograd import grad

TOKENS = torch.arange(3, 15)[None]
TOKEN_IDS = np.array([1, 5, 9], dtype=np.int32)


def settings(base: BaseModel, form: Any, targets: tuple[str, ...] = ("all-linear",), u: int = 3, v: int = 5) -> Any:
    """Directions drawn at random for every map of the last layer; alpha / rank is not 1."""
    generator = np.random.default_rng(4)
    plain = LoraSettings(v, 3.0, targets, False, 1)
    probe = attach(BaseModel(type(base.model)(base.model.config), base.tokenizer, "", "", base.name), plain)
    modules = {}
    for path, module in probe.get_base_model().named_modules():
        if hasattr(module, "lora_A"):
            ins, outs = module.lora_A["default"].weight.shape[1], len(module.lora_B["default"].weight)
            given = [generator.standard_normal(shape).astype(np.float32) / 4 for shape in ((v, ins), (outs, u))]
            modules[path] = Directions(given[0], given[1] if form == "core" else None)
    return replace(plain, form=form, basis=Basis(modules))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
@pytest.mark.parametrize("form", ["ffa", "core"])
@pytest.mark.parametrize("u", [3, 7], ids=["wide", "tall"])
def test_the_export_is_the_model_that_was_trained(
    family: str, form: str, u: int, make_base: Callable[..., BaseModel], tmp_path: Path
) -> None:
    base = make_base(family)
    lora = settings(base, form, u=u)
    model = attach(base, lora)
    schema = schema_of(model)
    sides = {name.rsplit(".lora_", 1)[1] for name in schema.names}
    assert sides == ({"R.weight"} if form == "core" else {"B.weight"})
    before = make_base(family).model(input_ids=TOKENS).logits
    set_flat(model, initial(schema, 1))
    assert torch.equal(model(input_ids=TOKENS).logits, before)
    adapter = np.random.default_rng(2).standard_normal(schema.dimension).astype(np.float32)
    set_flat(model, adapter)
    assert np.array_equal(get_flat(model), adapter)
    moved = model(input_ids=TOKENS).logits
    assert (moved - before).abs().max() > 1e-2
    plain, plain_schema, flat = as_lora(lora, schema, adapter)
    assert plain.form == "lora"
    assert plain.rank == (5 if form == "ffa" else min(u, 5))
    export_peft(tmp_path, flat, plain_schema, plain, "base")
    loaded = PeftModel.from_pretrained(make_base(family).model, tmp_path).eval()
    assert torch.allclose(loaded(input_ids=TOKENS).logits, moved, atol=1e-4)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("form", ["ffa", "core"])
def test_the_sum_equals_a_loop_over_units(
    form: str, cached: bool, tiny: Any, make_base: Callable[..., BaseModel], terms: Any, tmp_path: Path
) -> None:
    base = make_base()
    trainer = Trainer(base, settings(base, form), tiny.rows(9), tiny.units([3, 2, 4]), 64, tmp_path if cached else None)
    dimension = trainer.schema.dimension
    adapter = np.random.default_rng(2).standard_normal(dimension).astype(np.float32)
    every = replace(terms, max_grad_norm=1e3, loss_cap=1e3, records_per_unit=9)
    found = trainer.clipped_sum(adapter, [0, 1, 2], every, SystemRandomness())[:dimension]
    set_flat(trainer.model, adapter)
    expected = sum(
        torch.cat([part.reshape(-1) for part in grad(mean_loss(trainer, unit), list(parameters(trainer)))])
        for unit in trainer.units.rows
    )
    assert np.allclose(found, expected.detach().numpy(), rtol=1e-3, atol=1e-4)


def parameters(trainer: Trainer) -> Any:
    return parameters_of(trainer.model).values()


def mean_loss(trainer: Trainer, rows: tuple[int, ...]) -> torch.Tensor:
    losses = []
    for row in rows:
        example = trainer.examples[row]
        tokens = torch.from_numpy(example.tokens.astype(np.int64))
        labels = tokens.clone()
        labels[: example.answer_start] = -100
        losses.append(trainer.model(input_ids=tokens[None], labels=labels[None]).loss)
    return torch.stack(losses).mean()


def test_a_basis_comes_back_from_its_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    given = Directions(*(generator.standard_normal((2, 3)).astype(np.float32) for _ in range(2)))
    basis = Basis({"a.b": given, "c": Directions(given.inputs)}, TOKEN_IDS)
    basis.save(tmp_path / "basis")
    found = load_basis(tmp_path / "basis")
    assert found == basis
    assert found.digest == basis.digest
    assert np.array_equal(found.tokens, TOKEN_IDS)
    others = [
        Basis({"a.b": given, "d": Directions(given.inputs)}, TOKEN_IDS),
        Basis({"a.b": given, "c": given}, TOKEN_IDS),
        Basis({"a.b": given, "c": Directions(given.inputs)}, TOKEN_IDS[:2]),
        Basis({"a.b": given, "c": Directions(given.inputs.reshape(3, 2))}, TOKEN_IDS),
    ]
    assert len({basis.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_no_basis_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "basis").write_bytes(content)
    with pytest.raises(UserError, match="the basis is not usable"):
        load_basis(tmp_path / "basis")


def test_a_basis_that_does_not_fit_is_a_sentence(make_base: Callable[..., BaseModel]) -> None:
    base = make_base()
    lora = settings(base, "ffa", ("down_proj",))
    basis: Basis = lora.basis
    (path, given), *_ = basis.modules.items()
    for wrong, match in (
        (replace(lora, basis=None), "needs a basis"),
        (replace(lora, form="core"), "directions of outputs"),
        (replace(lora, rank=4), "has 5 directions: set model.lora.rank=5"),
        (replace(lora, targets=("up_proj",)), "no directions for model.layers.2.mlp.up_proj"),
        (replace(lora, basis=Basis({**basis.modules, "model.x": given})), "which is not trained"),
        (replace(lora, basis=Basis({path: Directions(given.inputs[:, 1:])})), "does not fit"),
    ):
        with pytest.raises(UserError, match=match):
            attach(make_base(), wrong)
    for bad in (np.full((2, 2), np.nan, dtype=np.float32), np.zeros((0, 2), dtype=np.float32)):
        with pytest.raises(UserError, match="not finite numbers"):
            Basis({"a": Directions(bad)})
    with pytest.raises(UserError, match="a map's name is none"):
        Basis({"\x1b]0;a": given})
    with pytest.raises(UserError, match="not ascending"):
        Basis({"a": given}, np.array([3, 3], dtype=np.int32))


def begun(lora: LoraSettings, schema: Any) -> tuple[LoraSettings, np.ndarray]:
    """The same with a start, and that start as an adapter."""
    start = np.random.default_rng(8).standard_normal(schema.dimension).astype(np.float32)
    parts = {module_of(name): part for name, part in schema.split(start).items()}
    assert lora.basis is not None
    modules = {path: replace(given, start=parts[path]) for path, given in lora.basis.modules.items()}
    return replace(lora, basis=Basis(modules, lora.basis.tokens)), start


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("form", ["ffa", "core"])
def test_a_start_is_added_to_what_is_trained(
    family: str, form: str, make_base: Callable[..., BaseModel], tiny: Any, terms: Any, tmp_path: Path
) -> None:
    """Model, private gradients and export are those of the sum, without a start."""
    lora = settings(make_base(family), form)
    plain_model = attach(make_base(family), lora)
    schema = schema_of(plain_model)
    with_start, start = begun(lora, schema)
    assert with_start.basis is not None
    assert with_start.basis.started
    with_start.basis.save(tmp_path / "basis.safetensors")
    assert load_basis(tmp_path / "basis.safetensors") == with_start.basis
    assert with_start.basis != lora.basis
    model = attach(make_base(family), with_start)
    assert schema_of(model) == schema
    adapter = np.random.default_rng(2).standard_normal(schema.dimension).astype(np.float32)
    for some in (np.zeros_like(adapter), adapter):
        set_flat(model, some)
        assert np.array_equal(get_flat(model), some)
        set_flat(plain_model, some + start)
        assert torch.allclose(model(input_ids=TOKENS).logits, plain_model(input_ids=TOKENS).logits, atol=1e-4)
    set_flat(model, untouched(model))
    assert torch.allclose(model(input_ids=TOKENS).logits, make_base(family).model(input_ids=TOKENS).logits, atol=1e-5)
    assert not untouched(plain_model).any()

    rows, units = tiny.rows(12), tiny.units([1] * 12)
    sums = [
        Trainer(make_base(family), used, rows, units, 64, folder).clipped_sum(at, range(12), terms, SystemRandomness())
        for used, at, folder in (
            (lora, adapter + start, None),
            (with_start, adapter, None),
            (with_start, adapter, tmp_path / "states"),
        )
    ]
    assert np.abs(sums[0]).max() > 0
    for other in sums[1:]:
        assert np.abs(other - sums[0]).max() < 1e-4 * np.abs(sums[0]).max()

    left, right = as_lora(with_start, schema, adapter), as_lora(lora, schema, adapter + start)
    assert (left[0], left[1]) == (right[0], right[1])
    assert np.allclose(left[2], right[2], atol=1e-5)


def test_a_start_of_another_shape_is_a_sentence(make_base: Callable[..., BaseModel]) -> None:
    lora = settings(make_base(), "core")
    assert lora.basis is not None
    modules = {path: replace(given, start=np.ones((2, 2), np.float32)) for path, given in lora.basis.modules.items()}
    with pytest.raises(UserError, match="begins with"):
        attach(make_base(), replace(lora, basis=Basis(modules)))


@pytest.mark.parametrize("form", ["lora", "ffa", "core"])
def test_an_adapter_is_taken_off_again(form: str, make_base: Callable[..., BaseModel]) -> None:
    base = make_base()
    before = base.model(input_ids=TOKENS).logits
    names = [name for name, _ in base.model.named_parameters()]
    lora = settings(base, form) if form != "lora" else LoraSettings(2, 4.0, ("all-linear",), False, 1)
    model = attach(base, lora)
    set_flat(model, np.ones(schema_of(model).dimension, dtype=np.float32))
    assert not torch.equal(base.model(input_ids=TOKENS).logits, before)
    detach(base)
    assert [name for name, _ in base.model.named_parameters()] == names
    assert torch.equal(base.model(input_ids=TOKENS).logits, before)
    detach(base)
    other = attach(base, LoraSettings(3, 4.0, ("down_proj",), False, 1))
    assert schema_of(other).dimension > 0
