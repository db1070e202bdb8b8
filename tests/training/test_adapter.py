"""LoRA as a flat vector: schema, first values, and files that PEFT itself loads."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cotune.errors import UserError
from cotune.training.adapter import (
    AdapterSchema,
    LoraSettings,
    attach,
    export_peft,
    get_flat,
    import_peft,
    initial,
    schema_of,
    set_flat,
)
from cotune.training.base import BaseModel
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.numpy import load_file, save_file

TOKENS = torch.arange(3, 15)[None]


def _random(schema: AdapterSchema) -> NDArray[np.float32]:
    return (0.3 * np.random.default_rng(2).standard_normal(schema.dimension)).astype(np.float32)


def test_flat_vector_round_trip(make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    model = attach(make_base(), lora)
    adapter = _random(schema_of(model))
    set_flat(model, adapter)
    assert np.array_equal(get_flat(model), adapter)
    with pytest.raises(ValueError, match="expected float32"):
        set_flat(model, adapter[:-1])
    with pytest.raises(ValueError, match="expected float32"):
        set_flat(model, adapter.astype(np.float64))  # type: ignore[arg-type]


def test_only_the_last_layers_are_trained(make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    schema = schema_of(attach(make_base(), replace(lora, top_layers=2)))
    assert schema.layers == (1, 2)
    assert {module.rsplit(".", 1)[-1] for module in schema.modules} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }


def test_settings_that_do_not_fit_are_sentences(make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    with pytest.raises(UserError, match="has 3 layers"):
        attach(make_base(), replace(lora, top_layers=4))
    with pytest.raises(UserError, match="no linear map 'c_attn'"):
        attach(make_base(), replace(lora, targets=("c_attn",)))
    with pytest.raises(UserError, match="rank"):
        replace(lora, rank=0)
    base = make_base()
    assert attach(base, lora) is attach(base, lora)
    with pytest.raises(UserError, match="already carries"):
        attach(base, replace(lora, rank=3))


def test_schema_survives_json(make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    schema = schema_of(attach(make_base(), lora))
    again = AdapterSchema.from_lists(json.loads(json.dumps(schema.to_lists())))
    assert again == schema
    assert again.digest == schema.digest
    assert replace(schema, names=schema.names[::-1], shapes=schema.shapes[::-1]).digest != schema.digest
    parts = schema.split(_random(schema))
    assert np.array_equal(np.concatenate([part.reshape(-1) for part in parts.values()]), _random(schema))


@given(
    st.recursive(
        st.none() | st.integers(-2, 3) | st.text(max_size=5) | st.just("base_model.model.x.lora_A.weight"),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=8,
    )
)
def test_a_foreign_schema_is_right_or_refused(lists: object) -> None:
    try:
        schema = AdapterSchema.from_lists(lists)
    except UserError:
        return
    assert schema.to_lists() == lists


def test_initial_has_the_distribution_of_peft(make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    model = attach(make_base(hidden_size=64, intermediate_size=160), replace(lora, rank=32))
    schema = schema_of(model)
    ours, theirs = schema.split(initial(schema, 5)), schema.split(get_flat(model))
    for name in schema.names:
        if name.endswith("lora_B.weight"):
            assert not ours[name].any()
            assert not theirs[name].any()
        else:
            bound = 1 / np.sqrt(ours[name].shape[1])
            for values in (ours[name], theirs[name]):  # 2048 or more uniform draws
                assert 0.98 * bound < np.abs(values).max() <= bound
                assert abs(values.mean()) < 0.1 * bound
                assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.08)
    assert np.array_equal(initial(schema, 5), initial(schema, 5))
    assert not np.array_equal(initial(schema, 5), initial(schema, 6))


@pytest.mark.parametrize(("family", "said"), [("mamba", "'out_proj'.*in_proj, out_proj, x_proj$"), ("ctrl", "Wk, Wq")])
def test_maps_that_peft_puts_nothing_into_are_one_line(
    make_base: Callable[..., BaseModel], lora: LoraSettings, family: str, said: str
) -> None:
    with pytest.raises(UserError, match=f"PEFT puts no LoRA .* family '{family}' .*{said}") as caught:
        attach(make_base(family), lora)
    assert "\n" not in str(caught.value)
    assert "base_layer" not in str(caught.value)


def test_initial_is_pinned() -> None:
    """Every organization must start from the same bits, whatever its NumPy."""
    schema = AdapterSchema(("base_model.model.m.layers.0.q.lora_A.weight",), ((2, 4),))
    assert initial(schema, 1).tobytes().hex() == PINNED


PINNED = "762549bef489b23e1a0fb0bed112f0befdefcc3e8557e5be4bf87a3e6be981be"


@pytest.mark.parametrize(("family", "top"), [("llama", 1), ("llama", 0), ("gpt2", 2)])
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_loads_the_export(
    tiny: Any,
    family: str,
    top: int,
    rslora: bool,
    make_base: Callable[..., BaseModel],
    lora: LoraSettings,
    tmp_path: Path,
) -> None:
    lora = replace(lora, top_layers=top, rslora=rslora)
    model = attach(make_base(family), lora)
    schema = schema_of(model)
    set_flat(model, _random(schema))
    export_peft(tmp_path / "adapter", get_flat(model), schema, lora, "a base")
    loaded = PeftModel.from_pretrained(tiny.model(family), tmp_path / "adapter")
    with torch.no_grad():
        expected, found = model(input_ids=TOKENS).logits, loaded.eval()(input_ids=TOKENS).logits
        bare = tiny.model(family)(input_ids=TOKENS).logits
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, bare, atol=1e-2)
    assert np.array_equal(import_peft(tmp_path / "adapter", schema), _random(schema))


def test_what_peft_saves_can_be_imported(
    make_base: Callable[..., BaseModel], lora: LoraSettings, tmp_path: Path
) -> None:
    model = attach(make_base(), lora)
    schema = schema_of(model)
    set_flat(model, _random(schema))
    model.save_pretrained(tmp_path)
    assert np.array_equal(import_peft(tmp_path, schema), _random(schema))


def test_strict_import(make_base: Callable[..., BaseModel], lora: LoraSettings, tmp_path: Path) -> None:
    schema = schema_of(attach(make_base(), lora))
    with pytest.raises(UserError, match="cannot read"):
        import_peft(tmp_path, schema)
    export_peft(tmp_path, _random(schema), schema, lora, "base")
    path = tmp_path / "adapter_model.safetensors"
    whole, tensors = path.read_bytes(), load_file(path)
    name = schema.names[0]

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            import_peft(tmp_path, schema)

    path.write_bytes(whole[:-5])
    refused("not a safetensors")
    path.write_bytes(whole + bytes(4 * len(whole) + 2**20))
    refused("larger than")
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    refused("differ at")
    save_file({**tensors, "base_model.model.x": tensors[name]}, path)
    refused("differ at")
    save_file({**tensors, name: np.ascontiguousarray(tensors[name].T)}, path)
    refused("has the shape")
    save_file({**tensors, name: tensors[name] * np.float32(np.nan)}, path)
    refused("not finite")
