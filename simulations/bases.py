"""What is trained, and the basis of a form that needs one: made from what a corpus has of public text."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from ..adapter.basis import Basis
from ..charter.terms import BasisTerms
from ..conf.schema import Settings
from ..data.corpora.corpus import Corpus, unlabelled
from ..data.records import Message, Record
from ..data.template import encode_all
from ..digest import file_digest
from ..errors import UserError
from ..evaluation.generate import answers_of
from ..evaluation.prompts import label_tokens
from ..evaluation.self_written import written
from ..training.adapter import LoraSettings
from ..training.base import BaseModel
from ..training.directions import BasisRecipe, make_basis
from ..training.textless import random_basis, weights_basis

# Texts that a base model writes for a basis, and the most tokens of one.
_SELF_WRITTEN, _MOST_TOKENS = 256, 64
# The most tokens of its answers to them, and tokens that pass through the model at once while it answers.
_ANSWER_TOKENS, _BATCH_TOKENS = 16, 8192


def lora_settings(settings: Settings) -> LoraSettings:
    """What is trained, before its basis is known; of settings that are `rates.settled`."""
    form = settings.model.lora
    assert form.rank is not None
    assert form.alpha is not None
    return LoraSettings(form.rank, form.alpha, form.targets, form.rslora, settings.model.top_layers, form.form)


def made_basis(settings: Settings, base: BaseModel, lora: LoraSettings, corpus: Corpus) -> Basis:
    """The basis that the settings describe; of the corpus' records no more than its labels have a part in it.

    Free text has none: then the answers that count are those of the public rows, at all of their tokens.

    Raises:
        UserError: a public row does not fit into the context, or there are too few.
    """
    how, context, source = settings.model.basis, settings.model.context_length, basis_source(settings)
    if source == "weights":
        return weights_basis(base, lora)
    sequences = label_tokens(corpus.test[0], corpus.labels, base.tokenizer, context)
    if source == "random":
        return random_basis(base, lora, len({token for sequence in sequences for token in sequence}), settings.seed)
    public = corpus.public if source == "public" else _self_written(settings, base, corpus)
    try:
        rows = encode_all(list(public), base.tokenizer, context)
    except UserError as error:
        raise UserError(f"public text, {error.what}", error.mend) from None
    free = settings.data.task == "text"
    if free:
        sequences = [tuple(map(int, row.tokens[row.answer_start :])) for row in rows]
    answers = sorted({token for sequence in sequences for token in sequence})
    recipe = BasisRecipe(_whitening(settings), how.spared, how.vocabulary, first_only=not free)
    return make_basis(base, lora, rows, answers, recipe)


def _whitening(settings: Settings) -> float:
    whitening = settings.model.basis.whitening
    assert whitening is not None
    return whitening


def basis_source(settings: Settings) -> Literal["public", "self_written", "random", "weights"]:
    """What a basis is made of: as set, else public text where there is some."""
    there = settings.data.corpus != "files" or settings.data.public_file is not None
    return settings.model.basis.source or ("public" if there else "self_written")


def _self_written(settings: Settings, base: BaseModel, corpus: Corpus) -> tuple[Record, ...]:
    preamble = tuple(Message(role, content) for role, content in corpus.shown.preamble)
    context = settings.model.context_length
    longest = max(corpus.labels, key=len, default="")

    def record(text: str) -> Record:
        return Record((*preamble, Message("user", text)), longest or "-", unit="public")

    def fits(text: str) -> bool:
        return _fits(record(text), base, context - (0 if longest else _ANSWER_TOKENS))

    texts = written(base, preamble, _SELF_WRITTEN, _MOST_TOKENS, context, settings.seed, fits)
    records = [record(text) for text in texts]
    return unlabelled(records, corpus.labels) if longest else _answered(records, base, context)


def _answered(records: Sequence[Record], base: BaseModel, context: int) -> tuple[Record, ...]:
    """The records, each with the beginning of what the base model answers."""
    answers = answers_of(base.model, base.tokenizer, records, context, _ANSWER_TOKENS, _BATCH_TOKENS)
    own = [replace(record, answer=answer) for record, answer in zip(records, answers, strict=True) if answer]
    return tuple(record for record in own if _fits(record, base, context))


def _fits(record: Record, base: BaseModel, context: int) -> bool:
    try:
        encode_all([record], base.tokenizer, context)
    except UserError:
        return False
    return True


def basis_terms(settings: Settings, basis: Basis) -> BasisTerms:
    """What the charter says of a basis."""
    source, file = basis_source(settings), settings.data.public_file
    used = file if source == "public" or basis.started else None
    looked = source not in ("random", "weights")
    return BasisTerms(
        digest=basis.digest,
        source=source,
        whitening=_whitening(settings) if looked else 0.0,
        spared=settings.model.basis.spared if looked else 0.0,
        start="public" if basis.started else "zero",
        vocabulary=len(basis.tokens),
        files=(("public file", file_digest(used)),) if used else (),
    )
