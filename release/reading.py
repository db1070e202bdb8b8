"""The release folder as others read it: what its `cotune.json` says, and the adapter checked against it.

The coordinator writes it (release/folder.py); chat and later tools read it without trusting it: bounded sizes, strict
parsing, hashes of every file that is used.
"""

import errno
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..adapter.peft_files import LoraSettings, import_peft
from ..adapter.schema import AdapterSchema
from ..charter.columns import Form
from ..digest import file_digest
from ..errors import UserError
from ..training.source import ModelSource

RELEASE_CONFIG: Final = "cotune.json"
LARGEST_CONFIG: Final = 16 * 2**20
LARGEST_FILE: Final = 16 * 2**30

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Role = Annotated[str, Field(pattern=r"^(system|user|assistant)$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ReleasedBase(_Strict):
    """The base model to load: its name, where it comes from and its pinned digests.

    `source` is None where the base was a folder of the coordinator's: each reader has a place of his own for it.
    """

    name: str
    source: ModelSource | None
    digest: Digest
    tokenizer_digest: Digest


class ReleasedLora(_Strict):
    """The fields of `LoraSettings`."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    rslora: bool
    top_layers: int


class ReleaseConfig(_Strict):
    """The file `cotune.json`.

    Attributes:
        form: of the training records: a completion's prompt is plain text, the others go through the chat template.
        preamble: the turns that stood before every training prompt, (role, content); empty: none.
        hidden_turns: whether prompts may have begun with turns that the release does not show.
        example_prompt: a prompt that may be shown to anybody; empty: none.
        adapter_schema: [[name, shape], ...].
        files: SHA-256 of every other file in the folder.
    """

    release_version: Literal[1]
    federation: str
    base: ReleasedBase
    lora: ReleasedLora
    adapter_schema: list[Any]
    schema_digest: Digest
    context_length: Annotated[int, Field(ge=1)]
    form: Form
    preamble: tuple[tuple[Role, str], ...]
    hidden_turns: bool
    example_prompt: str
    rounds: Annotated[int, Field(ge=0)]
    charter_digest: Digest
    transcript_head: str
    files: dict[FileName, Digest]


@dataclass(frozen=True)
class Released:
    """A checked release: configuration, LoRA settings, schema and the adapter, float32 [d]."""

    config: ReleaseConfig
    lora: LoraSettings
    schema: AdapterSchema
    adapter: NDArray[np.float32]


def read_config(folder: Path) -> ReleaseConfig:
    """Read `cotune.json`.

    Raises:
        UserError: no folder, no such file, too large, not JSON or not a release of this version.
    """
    path = folder / RELEASE_CONFIG
    try:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder", "give the release folder that a run wrote")
        if not path.is_file():
            raise UserError(f"{folder}: no release here (no {RELEASE_CONFIG})", "give the release folder of a run")
        if path.stat().st_size > LARGEST_CONFIG:
            raise UserError(f"{path}: larger than {LARGEST_CONFIG} bytes", "copy the release again")
        return ReleaseConfig.model_validate_json(path.read_bytes())
    except OSError as problem:
        raise UserError(f"{path}: {problem.strerror}", "make the release folder readable") from None
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise UserError(
            f"{path}: {place}: {first['msg']}", "copy the release again or use the cotune of its run"
        ) from None


def read_release(folder: Path) -> Released:
    """Read a release and check every file that its configuration lists.

    Raises:
        UserError: what `read_config` raises; a listed file is missing or differs from its hash; an adapter that does
            not fit its schema.
    """
    config = read_config(folder)
    for name, expected in config.files.items():
        _check(folder / name, expected)
    schema = AdapterSchema.from_lists(config.adapter_schema)
    if schema.digest != config.schema_digest:
        raise UserError(f"{folder / RELEASE_CONFIG}: the schema differs from its digest", "copy the release again")
    lora = LoraSettings(**config.lora.model_dump())
    return Released(config, lora, schema, import_peft(folder, schema))


def digest_of(path: Path) -> str:
    """Hex SHA-256 of a regular file of at most 16 GB, read in pieces. Raises OSError."""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST_FILE:
        raise OSError(errno.EINVAL, "not a regular file, or too large")
    return file_digest(path)


def _check(path: Path, expected: str) -> None:
    try:
        found = digest_of(path)
    except OSError as problem:
        raise UserError(f"{path}: {problem.strerror}", "copy the release again") from None
    if found != expected:
        raise UserError(f"{path}: differs from its hash in {RELEASE_CONFIG}", "copy the release again")
