"""The signatures of a charter on disk: one JSON file, signer's name -> signature as hex, bounded and strict."""

import json
import re
from functools import lru_cache
from pathlib import Path

from .. import atomic
from ..errors import UserError
from . import documents
from .charter import Charter
from .signing import verify_signatures

_MOST_BYTES = 2 * 1024 * 1024
_SIGNATURE = re.compile(r"[0-9a-f]{128}|[0-9a-f]{6746}")
_NAME = re.compile(r"[a-z0-9-]{1,64}")


def load(path: Path) -> dict[str, bytes]:
    """Read the signatures; empty where the file does not exist yet.

    Raises:
        UserError: the file is not of this form.
    """
    return _decoded(_content(path), str(path))


def _content(path: Path) -> bytes | None:
    if not path.exists():
        return None
    with path.open("rb") as file:
        return file.read(_MOST_BYTES + 1)


def _decoded(content: bytes | None, source: str) -> dict[str, bytes]:
    if content is None:
        return {}
    try:
        found = json.loads(content) if len(content) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(_is_signature(name, value) for name, value in found.items()):
        raise UserError(
            f"{source}: not a file of signatures", "collect the signatures again with `cotune charter sign`"
        )
    return {name: bytes.fromhex(value) for name, value in found.items()}


def save(signatures: dict[str, bytes], path: Path) -> None:
    """Write all signatures, atomically."""
    content = {name: signature.hex() for name, signature in sorted(signatures.items())}
    atomic.write_text(path, json.dumps(content, indent=1) + "\n")


def load_signed(charter: Path, signatures: Path) -> Charter:
    """A charter that every member and the coordinator signed.

    Raises:
        UserError: a file cannot be read. Refusal: a signature is missing or wrong.
    """
    return _signed(documents.content(charter, Charter), _content(signatures), str(charter), str(signatures))


# Both files are read at every message, and the signatures verified once a process for the same bytes: the result
# follows from the bytes alone, so a cache by content is as good as verifying again. What failed is not kept.
@lru_cache(maxsize=64)
def _signed(charter: bytes, signatures: bytes | None, source: str, beside: str) -> Charter:
    read = documents.parse(charter, Charter, source)
    verify_signatures(read, _decoded(signatures, beside))
    return read


def _is_signature(name: str, value: object) -> bool:
    return bool(_NAME.fullmatch(name)) and isinstance(value, str) and bool(_SIGNATURE.fullmatch(value))
