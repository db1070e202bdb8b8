"""What the frozen layers give of a simulation's records, computed once for all arms and for later runs.

In the field every organization computes this at home. On one machine all threads compute it for all records together,
and each home gets the file that it would have computed: a row's states follow from that row alone. States of a public
corpus are kept beside the downloaded packages, so that another run on the same deal finds them; those of a user's own
files stay in the run's folder.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..client.home import NodeHome
from ..conf.schema import Settings
from ..data.corpora.corpus import Corpus
from ..data.records import Record
from ..data.template import encode_all
from ..data.units import group
from ..training.adapter import LoraSettings
from ..training.base import BaseModel
from ..training.trainer import HIDDEN_STATES, Trainer
from .consortium import Consortium, everything
from .progress import Advance
from .workspace import Workspace

STEPS = 100
"""Of a bar that shows how far a data set is."""


def states_folder(settings: Settings, own: Path) -> Path | None:
    """Where states are kept, a folder for each deal of a public corpus; None where the settings cache none.

    Args:
        own: the folder of the run, for records that are a user's own.
    """
    if not settings.model.cache_features:
        return None
    if settings.data.brought:
        return own / "states"
    dealt = json.dumps([settings.data.model_dump(mode="json"), settings.seed], sort_keys=True)
    return settings.cache / "states" / hashlib.sha256(dealt.encode()).hexdigest()[:16]


def trainer_of(
    settings: Settings,
    base: BaseModel,
    lora: LoraSettings,
    records: Sequence[Record],
    folder: Path | None,
    advance: Advance,
) -> Trainer:
    """A trainer over records, whose states are computed or found in `folder`.

    Args:
        advance: told of every hundredth of the states, `STEPS` times in all.

    Raises:
        UserError: a record does not fit into the context, or the model cannot be trained so.
    """
    examples = encode_all(list(records), base.tokenizer, settings.model.context_length)
    said = 0

    def progress(what: str, done: int, of: int) -> None:
        nonlocal said
        reached = STEPS * done // of if what == HIDDEN_STATES else said
        if reached > said:
            advance(reached - said, f"{done:,} of {of:,} tokens through the frozen layers")
            said = reached

    with _alone(folder):
        made = Trainer(
            base, lora, examples, group(examples), settings.simulation.physical_batch_tokens, folder, progress
        )
    if said < STEPS:
        advance(STEPS - said, "known from before")
    return made


def hand_out(
    settings: Settings, space: Workspace, consortium: Consortium, corpus: Corpus, pooled: bool, advance: Advance
) -> bool:
    """Compute the states of all records, and give every home its own; with `pooled`, the home of that arm too.

    Returns:
        Whether a step runs over the answers' states alone, in a blink.
    """
    folder = states_folder(settings, space.path)
    trainer = trainer_of(settings, consortium.base, consortium.lora, everything(corpus), folder, advance)
    start = 0
    for name, records in corpus.organizations.items():
        trainer.hand_on(range(start, start + len(records)), NodeHome(consortium.homes[name]).cache)
        start += len(records)
    if pooled:
        trainer.hand_on(range(start), NodeHome(space.pooled).cache)
    return trainer.answers_only


@contextmanager
def _alone(folder: Path | None) -> Iterator[None]:
    """Let one process at a time compute into a folder that runs on the same deal share; the others wait."""
    if folder is None:
        yield
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
