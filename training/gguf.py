"""GGUF files (llama.cpp's quantized format), dequantized once into a safetensors folder.

transformers reads GGUF by dequantizing all of it, which takes long and twice the memory. The result goes to a cache
folder named by the file's SHA-256, with the digest of every file beside it, so that damage is found when it is read.
"""

import fcntl
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from .. import atomic
from ..digest import file_digest
from ..errors import UserError, first_line
from ..private_files import READABLE, require_file, require_folder
from .capacity import require_disk, require_memory

_log = logging.getLogger(__name__)
_MANIFEST = "cotune.json"
_FORMAT = 1


def dequantized(file: Path, cache: Path) -> tuple[Path, str]:
    """A folder with the model and tokenizer of a GGUF file, float32.

    Args:
        file: the GGUF file.
        cache: where such folders live.

    Returns:
        The folder, and the hex SHA-256 of the GGUF file.

    Guarantees:
        The folder is complete and holds what was written. A damaged one is rebuilt. Several processes may ask at once:
        one works, the others wait.

    Raises:
        UserError: the file is missing, is not GGUF, holds no causal language model, or there is too little room; or
            the folder is somebody else's, or others may write to it.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}", "set model.gguf_file to a file inside the model's folder")
    digest = file_digest(file)
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"gguf-{digest[:32]}"
    with _lock(cache / f".{folder.name}.lock"):
        if folder.is_symlink() or folder.exists():
            # Its manifest says what was written, not who wrote it.
            require_folder(folder, READABLE)
            for path in folder.iterdir():
                require_file(path, READABLE)
        if folder.exists() and not _is_intact(folder, digest):
            _log.warning("%s is damaged; it is built again from %s", folder, file.name)
            shutil.rmtree(folder)
        if not folder.exists():
            _build(file, digest, folder)
    return folder, digest


def _build(file: Path, digest: str, folder: Path) -> None:
    size = 4 * _parameters(file)
    require_disk(size + 2**26, folder.parent, file.name)
    require_memory(2 * size, torch.device("cpu"), file.name)
    with atomic.replacing_folder(folder) as beside:
        _dequantize(file, beside)
        files = {path.name: file_digest(path) for path in beside.iterdir()}
        manifest = {"format": _FORMAT, "source": digest, "files": files}
        (beside / _MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        for path in beside.iterdir():
            path.chmod(0o644)


def _dequantize(file: Path, folder: Path) -> None:
    options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **options)
        model = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **options)
    except Exception as error:  # readers of a foreign file; the tokenizers library raises bare exceptions
        raise UserError(
            f"{file.name} cannot be loaded: {first_line(error)}", "choose a GGUF file of a supported family"
        ) from error
    # The weights are plain float32 now; save_pretrained refuses a model that says it is quantized.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _parameters(file: Path) -> int:
    try:
        return sum(int(tensor.n_elements) for tensor in GGUFReader(str(file)).tensors)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UserError(f"{file} is not a GGUF file", "download it again") from error


def _is_intact(folder: Path, digest: str) -> bool:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        files: dict[str, str] = manifest["files"]
        if (manifest["format"], manifest["source"]) != (_FORMAT, digest):
            return False
        # A file that is not listed may change what is loaded, too.
        if {path.name for path in folder.iterdir()} != {*files, _MANIFEST}:
            return False
        return all(file_digest(folder / name) == expected for name, expected in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the operating system releases it when a process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
