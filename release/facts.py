"""What a release may hold: one value, and nothing reaches a release but through it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..adapter.peft_files import LoraSettings
from ..adapter.schema import AdapterSchema
from ..charter.columns import Form
from ..training.source import ModelSource
from .privacy_statement import PrivacyFacts

ATTACHED: Final = frozenset({"charter.yaml", "signatures.json"})
"""The only files that are copied as they are: what the members signed to publish. A report holds paths and scores."""


@dataclass(frozen=True)
class ReleaseFacts:
    """Everything a release says.

    Each field comes from the charter, from the run's own settings, or from what was sent in the run under the privacy
    terms. None comes from a record, a unit id, a label or a path on a member's or the coordinator's machine, but for
    the adapter, and for what a public corpus or the settings show (`data.corpora.partition.Shown`).

    Attributes:
        federation: name of the federation.
        members: names of the organizations.
        base_name, base_licence: of the base model, for people.
        base_source: where a reader finds the base; None where the
            coordinator had it in a folder: a path tells of a machine, and leads nowhere on others.
        base_digest, tokenizer_digest: hex SHA-256 as pinned by the charter.
        lora, schema, adapter: of the released LoRA: settings, names and shapes, float32 [d].
        trained: what of it was trained, in words; empty: all of it.
        context_length: tokens.
        strategy: name of the strategy.
        rounds, planned_rounds: done and planned.
        charter_digest: hex SHA-256 of the charter.
        transcript_head: head of the transcript's hash chain.
        transcript: the transcript file to copy; None: none was kept.
        privacy: what was spent and under which terms.
        form: of the records, so that a reader asks as was trained: through the chat template, or as plain text.
        data_cards: a description of the data by organization, or one for all under any name; Markdown.
        preamble: the turns (role, content) that stood before every training prompt.
        hidden_turns: whether prompts may have begun with turns that are not shown.
        example_prompt: a prompt that may be shown; empty: none.
        attachments: files by name, of `ATTACHED` only.
        neutral_nll: nats a token of neutral public text, of the base model and with the adapter; None: not measured.
    """

    federation: str
    members: tuple[str, ...]
    base_name: str
    base_licence: str
    base_source: ModelSource | None
    base_digest: str
    tokenizer_digest: str
    lora: LoraSettings
    trained: str
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
    form: Form
    data_cards: Mapping[str, str]
    preamble: tuple[tuple[str, str], ...]
    hidden_turns: bool
    example_prompt: str
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    neutral_nll: tuple[float, float] | None = None
