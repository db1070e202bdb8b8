"""The corpus of a run: built from a pinned package, or read from the user's own files."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..atomic import write_bytes
from ..charter.charter import COORDINATOR
from ..charter.columns import Columns, Turns
from ..conf.schema import Settings
from ..data.corpora import clauses, icd10, phenotypes
from ..data.corpora.corpus import Corpus, Shown, unlabelled
from ..data.corpora.partition import Partition
from ..data.files import in_line, read, unused
from ..data.packages import fetch
from ..data.records import PLAIN, Record, check_distinct, check_labels
from ..data.tables import rows
from ..data.units import each_row, group, prompt_of
from ..errors import UserError
from ..spelling import plain, plain_id
from .by_path import own_corpus

# Scored one by one after every prompt; more than this is not a classification task.
MOST_LABELS = 512
# How `write_records` lays a record out.
COLUMNS = Columns(prompt="prompt", answer="answer", unit="unit", label="label")


def load_corpus(settings: Settings) -> Corpus:
    """The organizations' records, the common test set and its labels.

    Raises:
        UserError: a package or file cannot be had or read, or the test set asks for labels that nobody trains on.

    Edge cases: where `simulation.judge` says so, the validation rows stand in the place of the test set.
    """
    sources = {"files": _from_files, "own": _from_code}
    corpus = sources.get(settings.data.corpus, _from_package)(settings)
    if settings.simulation.judge == "validation":
        if not corpus.validation:
            raise UserError(
                f"data.corpus={settings.data.corpus} has no row left to validate by",
                "deal fewer rows to the organizations, or set simulation.judge=test",
            )
        # That a test file is public says nothing of another file.
        shown = replace(corpus.shown, test_rows=corpus.shown.test_rows and settings.data.corpus != "files")
        corpus = replace(corpus, test=list(corpus.validation), shown=shown)
    if not settings.data.rows_are_units:
        return corpus
    own = {name: each_row(records) for name, records in corpus.organizations.items()}
    return replace(corpus, organizations=own)


def _from_package(settings: Settings) -> Corpus:
    package = settings.data.package
    if package is None:
        raise UserError("data.package is missing", f"choose data={settings.data.corpus}")
    folder, partition = fetch(package, settings.cache / "packages"), _partition(settings)
    if settings.data.corpus == "icd10":
        return icd10.build(folder, partition, package)
    if settings.data.corpus == "phenotypes":
        return phenotypes.build(folder, partition, package)
    skew = settings.data.skew or "label"
    return clauses.build(folder, partition, package, skew, whole_documents=not settings.data.rows_are_units)


def _partition(settings: Settings) -> Partition:
    return Partition(
        organizations=settings.data.organizations,
        rows_per_organization=settings.data.rows_per_organization or 0,
        dominance=settings.data.dominance or 0.0,
        test_rows=settings.data.test_rows or 1,
        seed=settings.seed,
    )


def _from_code(settings: Settings) -> Corpus:
    """What a function of the researcher's own builds."""
    corpus = own_corpus(settings.data.code or "", _partition(settings), settings.data.task)
    check_distinct(corpus.labels, "data.code")
    parts = {**corpus.organizations, "the validation set": list(corpus.validation)}
    _require_disjoint("data.code", parts, corpus.test)
    return corpus


def _from_files(settings: Settings) -> Corpus:
    """One file an organization, named by `organization_name`."""
    data = settings.data
    named: dict[str, Path] = {}
    for file in data.files:
        name = organization_name(file.stem)
        if not name or name == COORDINATOR:
            raise UserError(f"{file}: its name gives no organization a name", "name the file after the organization")
        if name in named:
            raise UserError(
                f"{file} and {named[name]} both give an organization the name {name}", "name each file differently"
            )
        named[name] = file
    organizations = {name: _read(file, settings, data.turns) for name, file in named.items()}
    if data.test_file is None:
        raise UserError("data.test_file is missing", "set data.test_file")
    test = _read(data.test_file, settings)[: data.test_rows]
    labels = _labels(organizations) if data.task == "labels" else ()
    _require_known(data.test_file, test, labels)
    _require_disjoint("data.test_file", organizations, test)
    validation = [] if data.validation_file is None else _read(data.validation_file, settings)[: data.test_rows]
    if data.validation_file is not None:
        _require_known(data.validation_file, validation, labels)
        _require_disjoint("data.validation_file", {**organizations, "the test set": test}, validation)
    public = tuple([] if data.public_file is None else _read(data.public_file, settings, data.turns))
    parts = {**organizations, "the test set": test, "the validation set": validation}
    _require_public(list(public), parts, data.columns.unit is not None)
    shown = _shown(settings, {**organizations, "the test file": test})
    if not labels:
        return Corpus(organizations, test, labels, shown, public, public, tuple(validation))
    known = {plain(label) for label in labels}
    answered = tuple(record for record in public if plain(record.answer) in known)
    return Corpus(organizations, test, labels, shown, unlabelled(public, labels), answered, tuple(validation))


def notes(settings: Settings) -> list[str]:
    """What whoever gives files of their own should hear once, also where these are then refused.

    Raises:
        UserError: a file cannot be read.
    """
    data, columns = settings.data, Columns(**settings.data.columns.model_dump())
    if data.corpus != "files":
        return []
    others = (data.test_file, data.validation_file, data.public_file)
    files = (*data.files, *(file for file in others if file is not None))
    found = dict.fromkeys(name for file in files for name in unused(file, data.form, columns))
    if not found:
        return []
    return [
        f"nothing reads the columns {in_line(tuple(found))} of your files; data.form and data.columns say what is read"
    ]


def _labels(organizations: Mapping[str, list[Record]]) -> tuple[str, ...]:
    """Every answer of the organizations, sorted.

    Raises:
        UserError: they are not the labels of a classification.
    """
    labels = tuple(sorted({record.answer for records in organizations.values() for record in records}))
    if not 2 <= len(labels) <= MOST_LABELS:
        raise UserError(
            f"data.files: {len(labels)} different answers; data.task=labels scores answers from a fixed set of "
            f"2 to {MOST_LABELS}",
            "use classification records, or set data.task=text (docs/learning.md)",
        )
    check_distinct(labels, "data.files")
    return labels


def _require_known(file: Path, records: list[Record], labels: Sequence[str]) -> None:
    """Every answer is one of the labels, where there are labels."""
    if not labels:
        return
    try:
        check_labels([replace(record, label=record.answer) for record in records], labels)
    except UserError as error:
        raise UserError(f"{file}, {error.what}", "correct the answer or drop the row") from None


def _read(file: Path, settings: Settings, turns: Turns = "last") -> list[Record]:
    """The records of a file. Where each row is a unit, a column of ids may be there, to keep the test set apart.

    Whatever is learned of a conversation, tests ask for its last turn, so that results can be compared.
    """
    data = settings.data
    columns = data.columns
    if data.rows_are_units and columns.unit is not None:
        _, first = next(rows(file), ("", {}))
        if plain(columns.unit) not in map(plain, first):
            columns = columns.model_copy(update={"unit": None})
    return read(file, data.form, columns, turns)


def _shown(settings: Settings, parts: Mapping[str, list[Record]]) -> Shown:
    """Nothing of the files, but for a system message that the configuration itself spells out.

    Raises:
        UserError: a record does not begin with that message, so that chat would ask in another way than was trained.
    """
    public, columns = settings.data.public_system, settings.data.columns
    if public is None:
        hidden = settings.data.form == "messages" or columns.system is not None
        return Shown("The members' own records.", hidden_turns=hidden, test_rows=settings.data.public_test)
    for name, records in parts.items():
        for number, record in enumerate(records, 1):
            first = record.prompt[0]
            if (first.role, plain(first.content)) != ("system", plain(public)):
                raise UserError(
                    f"data.public_system is not what record {number} of {name} begins with",
                    "begin every record with it, or set it to null",
                )
    hidden = settings.data.form == "messages"
    return Shown(
        "The members' own records.", (("system", public),), hidden_turns=hidden, test_rows=settings.data.public_test
    )


def organization_name(stem: str) -> str:
    """A charter's name for the organization of a file: a-z, 0-9 and hyphens, at most 64; empty where nothing is left.

    Letters lose their marks (Köln -> koln). A name with letters of other scripts is spelled as in a web address
    (北京 -> xn--1lq90i; RFC 3492), so that each such name is one of its own.
    """
    folded = plain_id(stem)
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(letter))
    if any(letter.isalnum() and not letter.isascii() for letter in bare):
        bare = "xn--" + folded.encode("punycode").decode()
    return re.sub(r"[^a-z0-9-]+", "-", bare).strip("-")[:64]


def _require_disjoint(key: str, organizations: Mapping[str, list[Record]], test: list[Record]) -> None:
    """No unit and no prompt of the file under `key` is in a training file, however it is spelled there.

    Raises:
        UserError: it names the first organization, and the first such row.
    """
    held = set(group(test).ids)
    asked = [prompt_of(record) for record in test]
    for name, records in organizations.items():
        shared = held & set(group(records).ids)
        if shared:
            raise UserError(
                f"{key}: {len(shared)} units are also in {name}'s file",
                "keep every unit on one side, or the accuracy means nothing",
            )
        _require_new(key, asked, name, records, "keep every text on one side, or the accuracy means nothing")


def _require_public(public: list[Record], parts: Mapping[str, list[Record]], own_ids: bool) -> None:
    """No prompt or unit of the public file is an organization's or the test set's: a basis is not noised.

    Args:
        own_ids: whether units have names in the files; else each row is one of its own.

    Raises:
        UserError: it names where, and the first such row.
    """
    asked = [prompt_of(record) for record in public]
    held = set(group(public).ids) if own_ids and public else set()
    for name, records in parts.items():
        mend = "give text that anybody may read: what is made of it is not noised"
        _require_new("data.public_file", asked, name, records, mend)
        shared = held & set(group(records).ids) if records else set()
        if shared:
            raise UserError(f"data.public_file: {len(shared)} units are also in {name}'s file", mend)


def _require_new(key: str, asked: Sequence[tuple[str, ...]], name: str, records: list[Record], mend: str) -> None:
    """None of the prompts of the file under `key` is among an organization's."""
    known = {prompt_of(record) for record in records}
    copied = [number for number, prompt in enumerate(asked, 1) if prompt in known]
    if copied:
        raise UserError(
            f"{key}: {len(copied)} prompts are also in {name}'s file (the first is that of row {copied[0]})", mend
        )


def _prompt(record: Record) -> str | list[dict[str, str]]:
    """A completion's text, or the turns of a conversation."""
    if record.prompt[0].role == PLAIN:
        return record.prompt[0].content
    return [{"role": message.role, "content": message.content} for message in record.prompt]


def write_records(records: list[Record], path: Path) -> None:
    """Write records as the JSONL that `data.files.read` takes with `COLUMNS`; 0600, since they are private."""
    lines = (
        json.dumps(
            {
                "prompt": _prompt(record),
                "answer": record.answer,
                "unit": record.unit,
                "label": record.label,
            },
            ensure_ascii=False,
        )
        for record in records
    )
    write_bytes(path, "".join(line + "\n" for line in lines).encode(), 0o600)
