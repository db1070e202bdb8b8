"""Digests that pin a base model and its tokenizer: over file names and the SHA-256 of each file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

_TOKENIZER = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    names = [path for pattern in ("*.safetensors", "*.safetensors.index.json") for path in folder.glob(pattern)]
    return files_digest("base model", {path.name: file_digest(path) for path in (*names, folder / "config.json")})


def tokenizer_digest(folder: Path) -> str:
    """Digest of what decides tokens: the tokenizer's files and the chat template."""
    paths = (folder / name for name in _TOKENIZER)
    return files_digest("tokenizer", {path.name: file_digest(path) for path in paths if path.is_file()})
