"""What a node keeps warm between messages: base model, tokenized records, trainer.

Loading takes tens of seconds, a round a few; a process that lives on keeps one workbench for each home. The base model
is shared between the homes of one process, so that a simulation of many nodes holds it once.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import private_files
from ..adapter.basis import load_basis
from ..charter.charter import Charter
from ..charter.policy import Policy
from ..data.files import in_line, read, unused
from ..data.records import Record
from ..data.template import encode_all
from ..data.units import group, holdings
from ..enrollment.node_settings import NodeSettings
from ..errors import UserError
from ..privacy.holdings import Holdings
from ..training.adapter import LoraSettings
from ..training.base import BaseModel, load_base, require_context
from ..training.guards import WrongModelError, check_digests
from ..training.trainer import HIDDEN_STATES, Trainer

log = logging.getLogger("cotune.client")
SECONDS_BETWEEN_LINES = 15.0
Progress = Callable[[str, int, int], None]
_BASES: dict[str, BaseModel] = {}


@dataclass(frozen=True)
class Workbench:
    """A trainer over one organization's data.

    Attributes:
        trainer: at the charter's model, with the charter's adapter.
        units: how many privacy units the data hold.
        holdings: what the data set holds, for the ledger.
        moved: tokens whose logits a core moves; 0: the adapter is none.
    """

    trainer: Trainer
    units: int
    holdings: Holdings
    moved: int = 0


def shared_base(settings: NodeSettings) -> BaseModel:
    """The base model, loaded once a process."""
    key = settings.model.model_dump_json()
    if key not in _BASES:
        model = settings.model
        _BASES[key] = load_base(model, settings.cache, model.device, model.dtype)
    return _BASES[key]


def lora_of(charter: Charter, basis: Path) -> LoraSettings:
    """The adapter's form, as the members agreed on it.

    Raises:
        UserError: the form needs a basis, and the file is not the one that was agreed on, or holds other things than
            the charter says.
    """
    model, found = charter.model, None
    if model.basis is not None:
        found = load_basis(basis)
        if found.digest != model.basis.digest:
            raise WrongModelError(f"{basis} is not the basis of the charter", "get it from who drafted the charter")
        ranks = {len(given.inputs) for given in found.modules.values()}
        if len(found.tokens) != model.basis.vocabulary or ranks != {model.rank}:
            raise WrongModelError(
                f"the charter says rank {model.rank} and a loss over {model.basis.vocabulary} tokens, its basis has "
                f"{max(ranks)} and {len(found.tokens)}",
                "have the charter drafted again",
            )
        # A start is a finished adapter: who signs that there is none must not train and release one.
        if found.started != (model.basis.start == "public"):
            raise WrongModelError(
                f"the charter says start {model.basis.start}, its basis has {'one' if found.started else 'none'}",
                "do not sign it; ask who drafted it what the basis holds",
            )
    return LoraSettings(
        model.rank, model.alpha, tuple(model.targets), model.rslora, model.top_layers, model.form, found
    )


def prepare(
    charter: Charter,
    settings: NodeSettings,
    policy: Policy,
    features: Path,
    basis: Path,
    progress: Progress | None = None,
    base: BaseModel | None = None,
) -> Workbench:
    """Load everything that training needs.

    Args:
        charter: the pinned one.
        settings: the node's own.
        policy: where the records are and how to read them.
        features: folder for cached hidden states.
        basis: file of the adapter's frozen directions, where its form has some.
        progress: called with (what, done, of) after each physical batch, of features or of a step. What it raises ends
            the work.
        base: the model, where the caller has loaded it; it is checked like any other.

    Raises:
        UserError: the data cannot be read or others can write to it, or the model is not the charter's.
    """
    torch.set_num_threads(settings.threads)
    base = base or shared_base(settings)
    check_digests(base, charter.model.base_digest, charter.model.tokenizer_digest)
    require_context(base, charter.model.context_length)
    lora = lora_of(charter, basis)
    records = records_of(policy)
    try:
        examples = encode_all(records, base.tokenizer, charter.model.context_length)
    except UserError as error:
        raise UserError(f"{policy.data}, {error.what}", error.mend) from None
    units = group(examples)
    if units.note:
        log.info(units.note)
    folder = features if settings.cache_features and charter.model.top_layers > 0 else None
    trainer = Trainer(base, lora, examples, units, settings.physical_batch_tokens, folder, progress)
    if trainer.schema.digest != charter.model.schema_digest:
        raise WrongModelError(
            "the adapter that this model gets differs from the charter's", "install the agreed cotune"
        )
    own_ids = policy.columns.unit is not None
    return Workbench(trainer, len(units.ids), holdings(records, policy.unit if own_ids else None), lora.moved)


def records_of(policy: Policy) -> list[Record]:
    """The organization's records, as its policy says; columns that it does not name are named in the log.

    Raises:
        UserError: they cannot be read, or others can write to them.
    """
    private_files.require_data(policy.data)
    columns = policy.columns
    if passed_over := unused(policy.data, policy.form, columns):
        log.info("nothing reads the columns %s of the records", in_line(passed_over))
    return read(policy.data, policy.form, columns, policy.turns)


def logged(clock: Callable[[], float] = time.monotonic) -> Progress:
    """Progress for a node's log: a line now and then while hidden states are computed, which may take minutes."""
    said = clock()

    def progress(what: str, done: int, of: int) -> None:
        nonlocal said
        if what == HIDDEN_STATES and clock() - said >= SECONDS_BETWEEN_LINES:
            said = clock()
            log.info("hidden states of the frozen layers: %d%% (once for this data)", 100 * done // of)

    return progress
