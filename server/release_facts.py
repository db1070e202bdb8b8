"""What a release says, collected in one value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..training.peft_files import LoraSettings
from ..training.schema import AdapterSchema
from .privacy_statement import PrivacyFacts


@dataclass(frozen=True)
class ReleaseFacts:
    """Everything a release says. Nothing in it comes from an organization's data, but for the adapter.

    Attributes:
        federation: name of the federation.
        members: names of the organizations.
        base_name, base_licence: of the base model, for people.
        base_source: the fields of `ModelSource`, JSON-able, so that a reader can load the base.
        base_digest, tokenizer_digest: hex SHA-256 as pinned by the charter.
        lora, schema, adapter: how it was trained, names and shapes, float32 [d].
        context_length: tokens.
        strategy: name of the strategy.
        rounds, planned_rounds: done and planned.
        charter_digest: hex SHA-256 of the charter.
        transcript_head: head of the transcript's hash chain.
        transcript: the transcript file to copy; None: none was kept.
        privacy: what was spent and under which terms.
        data_cards: a description of the data by organization, or one for all under any name; Markdown.
        preamble: the turns (role, content) that stood before every training prompt.
        example_prompt: a prompt that may be shown; empty: none.
        attachments: more files by plain name (the charter, its signatures, report.json).
    """

    federation: str
    members: tuple[str, ...]
    base_name: str
    base_licence: str
    base_source: Mapping[str, Any]
    base_digest: str
    tokenizer_digest: str
    lora: LoraSettings
    schema: AdapterSchema
    adapter: NDArray[np.float32]
    context_length: int
    strategy: str
    rounds: int
    planned_rounds: int
    charter_digest: str
    transcript_head: str
    transcript: Path | None
    privacy: PrivacyFacts
    data_cards: Mapping[str, str]
    preamble: tuple[tuple[str, str], ...]
    example_prompt: str
    attachments: Mapping[str, bytes] = field(default_factory=dict)
