"""Digests that pin a base model and its tokenizer, and a view of a model's folder that holds what they pin.

Libraries read more files than one thinks of: another tokenizer that `tokenizer_config.json` names, a template in
`additional_chat_templates/`, an adapter's settings. So a model is loaded from `pinned_view`, where no other file is.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..digest import file_digest

_TOKENIZER = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def files_digest(kind: str, files: Mapping[str, str]) -> str:
    """Hex SHA-256 over a kind and sorted (name, file digest) pairs.

    Args:
        kind: separates digests of different meaning over the same files.
        files: hex digests by file name.
    """
    lines = [f"cotune {kind}", *(f"{name} {files[name]}" for name in sorted(files))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def base_digest(folder: Path) -> str:
    """Digest of what decides a model's logits: its safetensors files, their index and config.json."""
    return files_digest("base model", {path.name: file_digest(path) for path in _base_files(folder)})


def tokenizer_digest(folder: Path) -> str:
    """Digest of what decides tokens: the tokenizer's files and the chat template."""
    return files_digest("tokenizer", {path.name: file_digest(path) for path in _tokenizer_files(folder)})


@contextmanager
def pinned_view(folder: Path) -> Iterator[Path]:
    """A folder of this process with links to what `base_digest` and `tokenizer_digest` cover, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="cotune-model-") as made:
        view = Path(made)
        for path in (*_base_files(folder), *_tokenizer_files(folder)):
            (view / path.name).symlink_to(path.resolve())
        yield view


def _base_files(folder: Path) -> list[Path]:
    weights = (path for pattern in ("*.safetensors", "*.safetensors.index.json") for path in folder.glob(pattern))
    # An adapter beside the weights would be put into the model, scaled by settings that nobody has agreed on.
    return [*(path for path in weights if not path.name.startswith("adapter_")), folder / "config.json"]


def _tokenizer_files(folder: Path) -> list[Path]:
    return [folder / name for name in _TOKENIZER if (folder / name).is_file()]
