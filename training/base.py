"""The frozen base model: where it comes from, what exactly it is, and where it runs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ..data.packages import fetch
from ..errors import UserError, first_line
from .capacity import require_memory
from .digests import base_digest, files_digest, pinned_view, tokenizer_digest
from .gguf import dequantized
from .source import ModelSource

_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_PLAIN_NUMBERS: Final = frozenset({"F64", "F32", "F16", "BF16"})
"""Types, as safetensors names them, of weights that are not quantized."""


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A loaded base model, frozen and in evaluation mode.

    Attributes:
        model: the causal language model.
        tokenizer: its tokenizer, with or without a chat template.
        digest: hex, over names and SHA-256 of the weight files and configuration; for GGUF over the GGUF file. No
            file that neither digest covers has a part in model or tokenizer.
        tokenizer_digest: hex, over the tokenizer's files; for GGUF over the GGUF file.
        name: what it is called.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    digest: str
    tokenizer_digest: str
    name: str


def load_base(source: ModelSource, cache: Path, device: str, dtype: str) -> BaseModel:
    """Load a base model from a folder, the hub, a GGUF file or a pinned package.

    Args:
        source: which one.
        cache: a folder for downloads and dequantized files.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (bfloat16 where the hardware computes in it, else float32), "float32" or "bfloat16".

    Raises:
        UserError: it is missing, damaged, quantized, not the pinned one, or does not fit; or somebody's adapter lies
            beside it.
    """
    place = _device(device)
    number = _dtype(dtype, place)
    folder, gguf_digest = _locate(source, cache)
    if gguf_digest is None:
        _require_weights(folder, source.name)
        digest, tokens = base_digest(folder), tokenizer_digest(folder)
    else:
        digest = files_digest("base model", {"gguf": gguf_digest})
        tokens = files_digest("tokenizer", {"gguf": gguf_digest})
    if source.sha256 is not None and digest != source.sha256:
        raise UserError(
            f"{source.name} has the digest {digest[:16]}..., expected {source.sha256[:16]}...",
            "get the model that was agreed on, or correct model.sha256",
        )
    with pinned_view(folder) as view:
        _require_unquantized(view, source.name)
        numbers = sum(tensor.count for tensor in _tensors(view, source.name))
        require_memory(numbers * number.itemsize, place, source.name)
        tokenizer = _tokenizer(view, source.name)
        model = _model(view, source.name, place, number)
    if gguf_digest is None:  # the tokenizer of a GGUF file gets a token of its own that no text makes
        _require_embedded(model, tokenizer, source.name)
    return BaseModel(model, tokenizer, digest, tokens, source.name)


def require_context(base: BaseModel, context_length: int) -> None:
    """Refuse a context that is longer than the positions that the model was made with.

    Raises:
        UserError: naming both.
    """
    # Of a model of text and images, the part that reads text.
    most = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(most, int) and context_length > most:
        raise UserError(
            f"model.context_length is {context_length}, {base.name} has {most} positions", f"set it to {most} at most"
        )


def _require_embedded(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Every token has a row of the embedding. One that has none ends a step on a CPU, and a whole process on a GPU."""
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", -1))
    rows = int(model.get_input_embeddings().weight.shape[0])
    if largest >= rows:
        raise UserError(
            f"the tokenizer of {name} has the token {largest} ({token[:40]!a}), its embedding {rows} rows",
            "take the tokenizer that belongs to the model, or resize the model's embedding",
        )


def _locate(source: ModelSource, cache: Path) -> tuple[Path, str | None]:
    """A local folder with safetensors, and the digest of the GGUF file that it was made from, if any."""
    folder = fetch(source.package, cache / "packages") if source.package is not None else _folder(source, cache)
    if source.gguf_file is None:
        return folder, None
    return dequantized(folder / source.gguf_file, cache / "dequantized")


def _folder(source: ModelSource, cache: Path) -> Path:
    folder = Path(source.name).expanduser()
    if folder.is_dir():
        return folder
    if source.name.startswith(("/", ".", "~")) or source.name.count("/") != 1:
        raise UserError(f"there is no model folder {folder}", "set model.name to a folder or a hub name like org/model")
    patterns = [source.gguf_file] if source.gguf_file is not None else _HUB_FILES
    try:
        return Path(
            snapshot_download(
                source.name, revision=source.revision, cache_dir=cache / "hub", allow_patterns=patterns, max_workers=2
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{source.name} is neither a folder here nor a model that the hub hands out ({type(error).__name__})",
            "download the model on a machine with access and set model.name to its folder",
        ) from error


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UserError(f"there is no device {device!r}", "set device to auto, cpu, cuda or cuda:N") from None
    if place.type == "cuda" and (not torch.cuda.is_available() or (place.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"this machine has no device {device}", "set device to cpu")
    return place


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if _computes_bfloat16(device) else torch.float32
    if dtype not in _DTYPES:
        raise UserError(f"dtype is {dtype!r}", f"set it to auto, {' or '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16: a CPU that only converts is slower than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _require_weights(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(f"{name} has no config.json", "point model.name to a folder that save_pretrained wrote")
    if (folder / "adapter_config.json").exists():
        # It is left out here, and whoever else reads this folder mixes it in: one name would mean two models.
        raise UserError(
            f"{name} holds an adapter beside the model (adapter_config.json)",
            "move the adapter's files to a folder of their own, or merge it into the model's weights",
        )
    if all(path.name.startswith("adapter_") for path in folder.glob("*.safetensors")):
        raise UserError(f"{name} has no safetensors weights", "convert it: pickled weights are never loaded")


def _require_unquantized(folder: Path, name: str) -> None:
    """Weights are plain floating-point numbers.

    Others need packages of their own to be read at all, and no gradient passes through them as it does through the
    numbers that they stand for. A checkpoint says so in its configuration, or its weights are integers.

    Raises:
        UserError: naming the method.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        parts = [config, config.get("text_config") or {}]
        said = next((part[key] for part in parts for key in _QUANTIZED if part.get(key)), None)
    except (ValueError, AttributeError, OSError):  # not JSON, or not an object: said when the model is loaded
        said = None
    method = said.get("quant_method", "a method of its own") if isinstance(said, dict) else said
    if method is None:
        weights = (one for one in _tensors(folder, name) if "weight" in one.name.rsplit(".", 1)[-1])
        method = next((f"{one.name} in {one.dtype}" for one in weights if one.dtype not in _PLAIN_NUMBERS), None)
    if method is not None:
        raise UserError(
            f"the weights of {name} are quantized ({str(method)[:120]}), which cannot be trained on here",
            "take the model's checkpoint that is not quantized, or a GGUF file of it",
        )


_QUANTIZED: Final = ("quantization_config", "compression_config")
"""Where a model's configuration says how its weights are quantized."""


@dataclass(frozen=True)
class _Tensor:
    """What the header of a weight file says of one tensor: its type, and how many numbers it holds."""

    name: str
    dtype: str
    count: int


def _tensors(folder: Path, name: str) -> Iterator[_Tensor]:
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="numpy") as tensors:
                for key in tensors.keys():  # noqa: SIM118  (not a mapping)
                    tensor = tensors.get_slice(key)
                    yield _Tensor(key, str(tensor.get_dtype()), prod(tensor.get_shape()))
    except (SafetensorError, OSError):
        raise UserError(f"the weights of {name} are damaged", "get the folder again") from None


def _tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # readers of foreign files; the tokenizers library raises bare exceptions
        raise UserError(
            f"{name} has no usable tokenizer ({first_line(error)})", "add its tokenizer files to the folder"
        ) from error
    tokenizer.name_or_path = name  # what refusals call it: it was read from a folder that is gone by then
    return tokenizer  # type: ignore[no-any-return]


def _model(folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    transformers_logging.disable_progress_bar()
    # Without a word on code that comes with a model, transformers asks at the terminal whether to run it.
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    options |= {"use_safetensors": True, "output_loading_info": True}
    try:
        model, found = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, **options)
    except Exception as error:  # a foreign configuration can make transformers raise anything
        raise UserError(
            f"{name} is not a usable causal language model ({first_line(error)})",
            "check its files, or choose another model",
        ) from error
    # transformers fills what is missing with random numbers and only warns.
    absent = sorted(str(key) for key in (*found["missing_keys"], *found["mismatched_keys"]))
    if absent:
        raise UserError(f"the weights of {name} lack {absent[0][:120]}", "get the model's files again")
    model.requires_grad_(False)
    return model.to(device).eval()  # type: ignore[no-any-return]
