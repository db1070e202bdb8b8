"""The release folder: adapter as PEFT reads it, configuration, model card, privacy statement, transcript.

It is built beside its place, made durable and renamed, so that a reader never sees half of one.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from ..adapter.peft_files import export_peft
from ..atomic import replacing_folder, write_bytes, write_text
from ..errors import UserError
from .facts import ATTACHED, ReleaseFacts
from .model_card import model_card
from .privacy_statement import statement_json, statement_markdown
from .reading import RELEASE_CONFIG, ReleaseConfig, ReleasedBase, ReleasedLora, digest_of, read_config

MODEL_CARD: Final = "README.md"
STATEMENT_JSON: Final = "privacy_statement.json"
STATEMENT_MARKDOWN: Final = "privacy_statement.md"


def write_release(facts: ReleaseFacts, folder: Path, prove: Callable[[Path], None] | None = None) -> None:
    """Write the release to `folder`, which then is the new release whole, or what it was before.

    Args:
        facts: all that it says. folder: its place.
        prove: is given the finished files beside their place; what it raises keeps them from it (see `proof`).

    Edge cases: an earlier release in `folder` is replaced. Between two renames `folder` is absent for a moment; a crash
    there leaves the earlier release beside it, named `.<name>.earlier`.

    Raises:
        UserError: `folder` holds something that is not a release, the disk is full or not writable, or the transcript
            is missing. Whatever `prove` raises.
        ValueError: the adapter is not float32 [d] or not finite, or an attachment is not one of `ATTACHED`.
    """
    if not np.isfinite(facts.adapter).all():
        raise ValueError("an adapter with numbers that are not finite is not released")
    _check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder) as beside:
            _fill(beside, facts)
            if prove is not None:
                prove(beside)
    except OSError as problem:
        place = problem.filename or folder
        raise UserError(
            f"cannot write the release: {place}: {problem.strerror}", "free the disk or check the path"
        ) from None


def _check_replaceable(folder: Path) -> None:
    if not os.path.lexists(folder):
        return
    mend = "choose another folder or remove this one"
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"{folder}: not a folder", mend)
    if any(folder.iterdir()):
        try:
            read_config(folder)
        except UserError:
            raise UserError(f"{folder}: holds something that is not a release", mend) from None


def _fill(folder: Path, facts: ReleaseFacts) -> None:
    """Write every file; the configuration last, since it holds the hashes of all others."""
    export_peft(folder, facts.adapter, facts.schema, facts.lora, facts.base_name)
    write_text(folder / MODEL_CARD, model_card(facts))
    statement = json.dumps(statement_json(facts.privacy), indent=2, allow_nan=False) + "\n"
    write_text(folder / STATEMENT_JSON, statement)
    write_text(folder / STATEMENT_MARKDOWN, statement_markdown(facts.privacy))
    if facts.transcript is not None:
        write_bytes(folder / f"transcript{facts.transcript.suffix}", facts.transcript.read_bytes())
    for name, content in facts.attachments.items():
        if name not in ATTACHED:
            raise ValueError(f"{name!r} is no part of a release")
        write_bytes(folder / name, content)
    write_text(folder / RELEASE_CONFIG, _config(folder, facts).model_dump_json(indent=2) + "\n")


def _config(folder: Path, facts: ReleaseFacts) -> ReleaseConfig:
    return ReleaseConfig(
        release_version=1,
        federation=facts.federation,
        base=ReleasedBase(
            name=facts.base_name,
            source=facts.base_source,
            digest=facts.base_digest,
            tokenizer_digest=facts.tokenizer_digest,
        ),
        lora=ReleasedLora(**{name: getattr(facts.lora, name) for name in ReleasedLora.model_fields}),
        adapter_schema=facts.schema.to_lists(),
        schema_digest=facts.schema.digest,
        context_length=facts.context_length,
        form=facts.form,
        preamble=facts.preamble,
        hidden_turns=facts.hidden_turns,
        example_prompt=facts.example_prompt,
        rounds=facts.rounds,
        charter_digest=facts.charter_digest,
        transcript_head=facts.transcript_head,
        files={path.name: digest_of(path) for path in sorted(folder.iterdir())},
    )
