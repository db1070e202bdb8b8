"""Loading: digests, refusals that are sentences, GGUF files dequantized once."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cotune.errors import UserError
from cotune.training import base as bases
from cotune.training import capacity as room
from cotune.training import gguf as gguf_files
from cotune.training.base import load_base, require_context
from cotune.training.digests import pinned_view
from cotune.training.source import ModelSource
from gguf import GGUFWriter
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def _source(name: Path | str, **changes: Any) -> ModelSource:
    return ModelSource(name=str(name), **changes)


def test_a_folder(tiny: Any, saved_model: Path, tmp_path: Path) -> None:
    base = load_base(_source(saved_model), tmp_path, "cpu", "float32")
    assert base.model.dtype == torch.float32
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    tokens = torch.arange(3, 12)[None]
    assert torch.equal(base.model(input_ids=tokens).logits, tiny.model("llama")(input_ids=tokens).logits)
    again = load_base(_source(saved_model, sha256=base.digest), tmp_path, "cpu", "bfloat16")
    assert (again.digest, again.tokenizer_digest) == (base.digest, base.tokenizer_digest)
    assert again.model.dtype == torch.bfloat16


def test_digests_follow_content_and_not_place(tiny: Any, saved_model: Path, tmp_path: Path) -> None:
    first = load_base(_source(saved_model), tmp_path, "cpu", "auto")
    copy = Path(shutil.copytree(saved_model, tmp_path / "elsewhere"))
    moved = load_base(_source(copy), tmp_path, "cpu", "auto")
    assert (moved.digest, moved.tokenizer_digest) == (first.digest, first.tokenizer_digest)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    other = load_base(_source(copy), tmp_path, "cpu", "auto")
    assert other.digest != first.digest
    assert other.tokenizer_digest == first.tokenizer_digest
    (copy / "chat_template.jinja").write_text(tiny.template + "!")
    assert load_base(_source(copy), tmp_path, "cpu", "auto").tokenizer_digest != first.tokenizer_digest


def test_what_no_digest_covers_is_not_loaded(tiny: Any, saved_model: Path, tmp_path: Path) -> None:
    """Files that transformers would read on its own: a template, a tokenizer of another version."""
    folder = Path(shutil.copytree(saved_model, tmp_path / "copy"))
    tokens = torch.arange(3, 12)[None]
    agreed = load_base(_source(folder), tmp_path, "cpu", "float32")
    expected = agreed.model(input_ids=tokens).logits

    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "default.jinja").write_text("{{ 'w9' }}")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 5}))
    found = load_base(_source(folder), tmp_path, "cpu", "float32")
    assert (found.digest, found.tokenizer_digest) == (agreed.digest, agreed.tokenizer_digest)
    assert found.tokenizer.get_chat_template() == agreed.tokenizer.get_chat_template()
    assert torch.equal(found.model(input_ids=tokens).logits, expected)

    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["fast_tokenizer_files"] = ["tokenizer.4.0.0.json"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    content = (folder / "tokenizer.json").read_text()
    swapped = content.replace('"word5": 5', '"word5": 6').replace('"word6": 6', '"word6": 5')
    assert swapped != content
    (folder / "tokenizer.4.0.0.json").write_text(swapped)
    try:
        loaded = load_base(_source(folder), tmp_path, "cpu", "float32")
    except UserError:
        return
    assert loaded.tokenizer("word5")["input_ids"] == agreed.tokenizer("word5")["input_ids"]


def test_a_folder_with_somebodys_adapter_is_refused(saved_model: Path, tmp_path: Path) -> None:
    """Transformers mixes it in without a word, and so would each reader of a release that is trained on this folder."""
    folder = Path(shutil.copytree(saved_model, tmp_path / "copy"))
    tokens, bare = torch.arange(3, 12)[None], AutoModelForCausalLM.from_pretrained(folder).eval()
    options = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, lora_alpha=400)
    get_peft_model(AutoModelForCausalLM.from_pretrained(saved_model), options).save_pretrained(folder)
    mixed = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert not torch.allclose(mixed(input_ids=tokens).logits, bare(input_ids=tokens).logits, atol=1e-2)
    _refused(_source(folder), tmp_path, r"holds an adapter beside the model \(adapter_config.json\): move")
    with pinned_view(folder) as view:
        assert not list(view.glob("adapter_*"))


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_in_it(
    capabilities: dict[str, bool],
    expected: torch.dtype,
    saved_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert load_base(_source(saved_model), tmp_path, "cpu", "auto").model.dtype == expected


def _refused(source: ModelSource, cache: Path, match: str, device: str = "cpu", dtype: str = "auto") -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_base(source, cache, device, dtype)
    assert "\n" not in str(caught.value)


def test_refusals(saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _refused(_source(saved_model, sha256="0" * 64), tmp_path, "expected 0000")
    _refused(_source(tmp_path / "nothing"), tmp_path, "there is no model folder")
    _refused(_source(saved_model), tmp_path, "no device 'abacus'", device="abacus")
    _refused(_source(saved_model), tmp_path, "dtype is 'int3'", dtype="int3")
    _refused(_source(saved_model, gguf_file="x.gguf"), tmp_path, "there is no file")
    if not torch.cuda.is_available():
        _refused(_source(saved_model), tmp_path, "no device cuda", device="cuda")
    monkeypatch.setattr(room, "_free_memory", lambda: 1000)
    _refused(_source(saved_model), tmp_path, "of memory on cpu")


def test_a_token_without_a_row_of_the_embedding_is_refused_at_load(saved_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved_model, tmp_path / "grown"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"more{number}" for number in range(100)])
    tokenizer.save_pretrained(folder)
    _refused(_source(folder), tmp_path, r"the tokenizer of .* has the token \d+ \('more99'\), its embedding \d+ rows")


def _with_config(saved_model: Path, to: Path, **more: object) -> Path:
    folder = Path(shutil.copytree(saved_model, to))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | more))
    return folder


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors", "fp8", "mxfp4", "of-tomorrow"])
@pytest.mark.parametrize("place", ["quantization_config", "compression_config", "text_config"])
def test_quantized_weights_are_refused_by_their_method(
    saved_model: Path, tmp_path: Path, method: str, place: str
) -> None:
    said: dict[str, object] = {"quant_method": method, "bits": 4}
    more = {place: {"quantization_config": said} if place == "text_config" else said}
    folder = _with_config(saved_model, tmp_path / "small", **more)
    _refused(_source(folder), tmp_path, rf"are quantized \({method}\).*: take the model's checkpoint that is not")


@pytest.mark.parametrize("name", ["qweight", "weight", "weight_packed"])
def test_weights_that_are_no_floating_point_numbers_are_quantized(saved_model: Path, tmp_path: Path, name: str) -> None:
    """A checkpoint may say it in a file of its own, or nowhere."""
    folder = _with_config(saved_model, tmp_path / "silent")
    packed = {f"model.layers.0.mlp.up_proj.{name}": np.zeros((4, 4), np.int32), "mask": np.zeros(3, np.uint8)}
    save_file(packed, folder / "more.safetensors")
    _refused(_source(folder), tmp_path, rf"are quantized \(model.layers.0.mlp.up_proj.{name} in I32\)")


def test_an_integer_that_is_no_weight_says_nothing_of_quantizing(saved_model: Path, tmp_path: Path) -> None:
    """GPT-2's first checkpoints hold their attention's mask."""
    folder = _with_config(saved_model, tmp_path / "masked")
    save_file({"model.layers.0.attn.bias": np.ones(3, np.uint8)}, folder / "more.safetensors")
    load_base(_source(folder), tmp_path, "cpu", "float32")


@pytest.mark.parametrize(
    "error", [ImportError("needs `tiktoken`:\n pip"), TypeError("no"), Exception("bare"), AssertionError()]
)
@pytest.mark.parametrize("reader", ["AutoTokenizer", "AutoModelForCausalLM"])
def test_whatever_a_library_raises_is_one_line(
    saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reader: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(getattr(bases, reader), "from_pretrained", fail)
    said = str(error).partition("\n")[0] or "AssertionError"
    _refused(_source(saved_model), tmp_path, rf"no usable tokenizer \({said}|causal language model \({said}")


def test_a_tokenizer_is_called_by_the_models_name(saved_model: Path, tmp_path: Path) -> None:
    """And not by the folder that it was read from, which is gone."""
    assert load_base(_source(saved_model), tmp_path, "cpu", "auto").tokenizer.name_or_path == str(saved_model)


def test_a_folder_that_holds_an_adapter_alone_has_no_weights(saved_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved_model, tmp_path / "adapter"))
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    _refused(_source(folder), tmp_path, "no safetensors weights")


def test_positions_are_those_of_the_part_that_reads_text(saved_model: Path, tmp_path: Path) -> None:
    base = load_base(_source(saved_model), tmp_path, "cpu", "auto")

    class Whole:
        def get_text_config(self) -> Any:
            return SimpleNamespace(max_position_embeddings=24)

    base.model.config = Whole()
    with pytest.raises(UserError, match="has 24 positions"):
        require_context(base, 25)


def test_a_context_beyond_the_positions_is_refused(saved_model: Path, tmp_path: Path) -> None:
    base = load_base(_source(saved_model), tmp_path, "cpu", "auto")
    most = base.model.config.max_position_embeddings
    require_context(base, most)
    with pytest.raises(UserError, match=f"model.context_length is {most + 1}, .* has {most} positions"):
        require_context(base, most + 1)


def test_the_hub_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _refused(_source("nobody/no-such-model"), tmp_path, "neither a folder here nor a model")


def test_damaged_folders(saved_model: Path, tmp_path: Path) -> None:
    def broken(name: str, content: bytes | None) -> ModelSource:
        copy = Path(shutil.copytree(saved_model, tmp_path / f"broken{len(list(tmp_path.iterdir()))}"))
        if content is None:
            (copy / name).unlink()
        else:
            (copy / name).write_bytes(content)
        return _source(copy)

    weights = (saved_model / "model.safetensors").read_bytes()
    _refused(broken("config.json", None), tmp_path, "no config.json")
    _refused(broken("config.json", b"{"), tmp_path, "not a usable causal language model|no usable tokenizer")
    _refused(broken("model.safetensors", None), tmp_path, "no safetensors weights")
    _refused(broken("model.safetensors", weights[:-100]), tmp_path, "are damaged")
    _refused(broken("tokenizer.json", None), tmp_path, "no usable tokenizer")
    config = json.loads((saved_model / "config.json").read_text())
    deeper = json.dumps(config | {"num_hidden_layers": 4}).encode()
    _refused(broken("config.json", deeper), tmp_path, "lack model.layers.3")


def _write_gguf(tiny: Any, path: Path, with_template: bool = True) -> Any:
    """A tiny Llama in GGUF, as llama.cpp's converter lays it out."""
    model = tiny.model("llama", num_hidden_layers=2)
    config, state = model.config, model.state_dict()
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(24)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(4)
    writer.add_vocab_size(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<unk>", "<s>", "</s>", *[chr(96 + number) for number in range(1, 61)], "ab"])
    writer.add_token_merges(["a b"])
    writer.add_token_types([3, 3, 3] + [1] * 61)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if with_template:
        writer.add_chat_template(tiny.template)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, there in outer.items():
        writer.add_tensor(f"{there}.weight", state[f"{name}.weight"].numpy())
    for layer in range(2):
        for name, there in names.items():
            weight = state[f"model.layers.{layer}.{name}.weight"].numpy()
            heads = {"attn_q": 4, "attn_k": 2}.get(there)
            if heads:  # llama.cpp interleaves the halves of rotary pairs
                half = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
                weight = np.ascontiguousarray(half.swapaxes(1, 2).reshape(weight.shape))
            writer.add_tensor(f"blk.{layer}.{there}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_gguf_is_dequantized_once(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = _write_gguf(tiny, tmp_path / "tiny.gguf")
    source = _source(tmp_path, gguf_file="tiny.gguf")
    base = load_base(source, tmp_path / "cache", "cpu", "float32")
    tokens = torch.arange(3, 12)[None]
    found = base.model(input_ids=tokens).logits.clone()
    assert torch.allclose(found, written(input_ids=tokens).logits, atol=1e-5)
    assert base.tokenizer.chat_template == tiny.template
    (folder,) = [path for path in (tmp_path / "cache" / "dequantized").iterdir() if path.is_dir()]

    def never(*_: object) -> None:
        raise AssertionError("dequantized again")

    monkeypatch.setattr(gguf_files, "_dequantize", never)
    again = load_base(source, tmp_path / "cache", "cpu", "float32")
    assert again.digest == base.digest
    monkeypatch.undo()

    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    mended = load_base(source, tmp_path / "cache", "cpu", "float32")
    assert torch.equal(mended.model(input_ids=tokens).logits, found)
    assert (folder / "model.safetensors").read_bytes() != bytes(weights)

    (folder / "vocab.txt").write_text("a file that its manifest does not name")
    load_base(source, tmp_path / "cache", "cpu", "float32")
    assert not (folder / "vocab.txt").exists()
    (folder / "config.json").chmod(0o666)
    _refused(source, tmp_path / "cache", "other users may change it")


def test_a_model_without_a_chat_template_serves_completions(tiny: Any, tmp_path: Path) -> None:
    _write_gguf(tiny, tmp_path / "bare.gguf", with_template=False)
    base = load_base(_source(tmp_path, gguf_file="bare.gguf"), tmp_path / "cache", "cpu", "auto")
    assert not base.tokenizer.chat_template


def test_gguf_refusals(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "no.gguf").write_bytes(b"GGUF, but not really")
    _refused(_source(tmp_path, gguf_file="no.gguf"), cache, "not a GGUF file")
    _write_gguf(tiny, tmp_path / "tiny.gguf")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10))  # type: ignore[attr-defined]
    _refused(_source(tmp_path, gguf_file="tiny.gguf"), cache, "are free")


def test_a_failed_build_leaves_nothing(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_gguf(tiny, tmp_path / "tiny.gguf")

    def fail(_file: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_files, "_dequantize", fail)
    with pytest.raises(KeyboardInterrupt):
        gguf_files.dequantized(tmp_path / "tiny.gguf", tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_the_tokenizer_of_the_fixtures_reads_words(tiny: Any) -> None:
    assert tiny.tokenizer()("word5 word6")["input_ids"] == [5, 6]
