"""Clause types: a clause of a license -> one word for what it is about, as in LEDGAR (Tuggener et al., 2020).

The texts are those of the ScanCode LicenseDB as the package `licensedcode-data` carries it. A clause's label comes from
its heading, which is cut from the text. Firms differ in the clause types, or in the license
family, that dominate. The test set is split by
document family, and training clauses that nearly repeat a test clause are dropped.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import yaml

from ...errors import UserError
from ..packages import PinnedPackage
from ..records import Message, Record
from . import headings
from .cards import pin_line, shown_of_public, test_table, themes_list
from .corpus import Corpus, unlabelled
from .examples import opening
from .neighbors import without_near
from .partition import Bundle, Partition, deal, hold_out, spare, tag, theme_groups

Skew = Literal["label", "family"]
SYSTEM = "Clause type?"
# Turns before every clause that show the form of an answer, written by hand.
EXAMPLES = (
    ("The software is provided as is, without any warranty.", "warranty"),
    ("This agreement is governed by the laws of Ireland.", "law"),
    ("You may copy and distribute the program.", "distribution"),
    ("We are not liable for any damages.", "liability"),
    ("You are allowed to use the software on one computer.", "grant"),
    ("We may end this agreement at any time.", "termination"),
)
OPENING = opening(SYSTEM, EXAMPLES)
MIN_WORDS = 25
MAX_WORDS = 40  # near 55 tokens
ROWS_PER_KIN = 6
MIN_ROWS_PER_LABEL = 30
SIMILARITY = 0.6
PUBLIC_ROWS = 300
MAX_FILE_BYTES = 1024 * 1024
FAMILIES = {
    "Proprietary Free": "vendor",
    "Commercial": "commercial",
    "Copyleft": "copyleft",
    "Copyleft Limited": "copyleft",
    "Permissive": "permissive",
    "Public Domain": "permissive",
    "Free Restricted": "restricted",
    "Source-available": "restricted",
    "Patent License": "restricted",
    "CLA": "restricted",
    "Unstated License": "restricted",
}


def build(
    package_folder: Path, partition: Partition, package: PinnedPackage | None, skew: Skew, whole_documents: bool = True
) -> Corpus:
    """Deal the license clauses to law firms.

    Args:
        package_folder: the unpacked wheel of `licensedcode-data`.
        partition: how to deal it.
        package: the wheel's pin, for the data card.
        skew: what firms differ in. "label": each has a practice, a group of clause types that dominates; the clauses of
            one document may then lie at several firms. "family": the license family of their documents.
        whole_documents: public text is of documents of which nothing was dealt; else clauses that were not.

    Returns:
        A corpus whose unit is the document (the matter); `units.each_row` makes each clause its own unit.

    Raises:
        UserError: no license texts; `datasketch` is missing; a corpus too small for the partition.

    Guarantees: the same folder and partition give the same corpus; no document family is on both sides of the split.
    """
    bundles = _frequent(_distinct(list(documents(package_folder))))
    if skew == "label":
        bundles = [Bundle((row,), row.label, bundle.kin) for bundle in bundles for row in bundle.rows]
    groups = theme_groups(bundles, partition.organizations)
    names = [f"firm-{index + 1}" for index in range(partition.organizations)]
    training, held = hold_out(bundles, groups, partition, ROWS_PER_KIN)
    kept = without_near(training, [row for _, row in held], SIMILARITY)
    organizations = deal(kept, groups, names, partition)
    test = tag(held, names)
    present = {row.label for bundle in bundles for row in bundle.rows}
    labels = tuple(label for label, _ in headings.RULES if label in present)
    themes = themes_list(groups, names)
    dropped = _rows(training) - _rows(kept)
    card = _card(test, labels, themes, dropped, partition, package, skew)
    dealt = [record for records in organizations.values() for record in records]
    left = _left(kept, dealt, whole_documents)
    public = _public(left)
    # Most families are dealt at least in part, so validation rows may be of a family that is trained on.
    apart = without_near(_left(left, public, whole_documents=False), [*dealt, *public], SIMILARITY)
    return Corpus(
        organizations,
        test,
        labels,
        shown_of_public(test, card),
        unlabelled(public, labels),
        public,
        tuple(tag(spare(apart, groups, partition, ROWS_PER_KIN), names)),
    )


def _left(bundles: Sequence[Bundle], taken: Sequence[Record], whole_documents: bool) -> list[Bundle]:
    """What is not taken, or with `whole_documents` only of documents of which nothing is."""
    units, texts = {record.unit for record in taken}, {_normal(record) for record in taken}
    cut = [
        tuple(row for row in bundle.rows if (row.unit not in units if whole_documents else _normal(row) not in texts))
        for bundle in bundles
    ]
    return [Bundle(rows, bundle.theme, bundle.kin) for rows, bundle in zip(cut, bundles, strict=True) if rows]


def _public(left: Sequence[Bundle]) -> tuple[Record, ...]:
    """Clauses that nobody was dealt, evenly spread, with the labels of their headings: the field's public text."""
    rows = [row for bundle in left for row in bundle.rows]
    step = max(1, len(rows) // PUBLIC_ROWS)
    return tuple(rows[::step][:PUBLIC_ROWS])


def documents(package_folder: Path) -> Iterator[Bundle]:
    """One bundle for each English text with labeled clauses: theme is its license family, kin its document family."""
    folder = package_folder / "licensedcode" / "data" / "licenses"
    files = sorted(folder.glob("*.LICENSE"))
    if not files:
        raise UserError(f"{folder}: no license texts", "fetch the package licensedcode-data again")
    for file in files:
        facts, text = _parse(file)
        theme = FAMILIES.get(str(facts.get("category")))
        if theme is None or facts.get("language", "en") != "en":
            continue
        rows = tuple(_records(text, unit=f"clauses-{file.stem}"))
        if rows:
            yield Bundle(rows, theme, kin=re.split(r"[-.\d]", file.stem, maxsplit=1)[0] or file.stem)


def _parse(file: Path) -> tuple[dict[str, object], str]:
    """The YAML front matter and the text below it."""
    if file.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{file}: larger than {MAX_FILE_BYTES} bytes", "fetch the package licensedcode-data again")
    parts = re.split(r"^---[ \t]*$", file.read_text(encoding="utf-8"), maxsplit=2, flags=re.MULTILINE)
    if len(parts) != 3:
        raise UserError(f"{file}: no front matter", "fetch the package licensedcode-data again")
    facts = yaml.load(parts[1], Loader=yaml.BaseLoader)  # noqa: S506  (BaseLoader makes only strings, lists and dicts)
    return (facts if isinstance(facts, dict) else {}), parts[2]


def _records(text: str, unit: str) -> Iterator[Record]:
    for heading, body in headings.clauses(text):
        label = headings.label_of(heading)
        words = body.split()
        if label and len(words) >= MIN_WORDS and _is_prose(words):
            clause = " ".join(words[:MAX_WORDS])
            yield Record((*OPENING, Message("user", clause)), label, unit=unit, label=label)


def _is_prose(words: Sequence[str]) -> bool:
    """Opens like a sentence and is mostly words: no table of contents, no text that goes on from the line above."""
    opening = words[0].lstrip("\"'“”‘(")
    wordlike = sum(1 for word in words[:MAX_WORDS] if re.fullmatch(r"[\"'“”‘’(]*[A-Za-z’'\-/]+[\"'“”’).,;:]*", word))
    return bool(opening) and not opening[0].islower() and wordlike >= 0.85 * min(len(words), MAX_WORDS)


def _distinct(bundles: Sequence[Bundle]) -> list[Bundle]:
    """Without repeated clauses: the first of each normalized text stays; one with two labels goes altogether."""
    labels: dict[str, set[str]] = {}
    for bundle in bundles:
        for row in bundle.rows:
            labels.setdefault(_normal(row), set()).add(row.label)
    seen: set[str] = set()
    kept = []
    for bundle in bundles:
        rows = []
        for row in bundle.rows:
            key = _normal(row)
            if key not in seen and len(labels[key]) == 1:
                seen.add(key)
                rows.append(row)
        if rows:
            kept.append(Bundle(tuple(rows), bundle.theme, bundle.kin))
    return kept


def _normal(row: Record) -> str:
    return " ".join(re.findall(r"[a-z]+", row.prompt[-1].content.casefold()))


def _frequent(bundles: Sequence[Bundle]) -> list[Bundle]:
    """Without labels that have too few rows to learn and to test."""
    counts = Counter(row.label for bundle in bundles for row in bundle.rows)
    cut = [
        Bundle(tuple(row for row in bundle.rows if counts[row.label] >= MIN_ROWS_PER_LABEL), bundle.theme, bundle.kin)
        for bundle in bundles
    ]
    return [bundle for bundle in cut if bundle.rows]


def _rows(bundles: Sequence[Bundle]) -> int:
    return sum(len(bundle.rows) for bundle in bundles)


def _card(
    test: list[Record],
    labels: tuple[str, ...],
    themes: str,
    dropped: int,
    partition: Partition,
    package: PinnedPackage | None,
    skew: Skew,
) -> str:
    return f"""# Data card: license clause to clause type

- Source: ScanCode LicenseDB (nexB and others, CC-BY-4.0) as carried by the Python package `licensedcode-data`. The
  texts stay their owners': they are read from the package and never copied into a repository.
- Package: {pin_line(package)}
- Task: a clause (its first {MAX_WORDS} words, heading cut off) -> one word for its type, {len(labels)} types, in the
  manner of LEDGAR.
- Privacy unit: the document (a firm's matter), or each clause.
- Split: by document family (first word of the license's key): no family is on both sides; at most {ROWS_PER_KIN} test
  rows a family. {dropped} training clauses whose word triples nearly repeat a test clause (MinHash, Jaccard about
  {SIMILARITY} and above) were dropped.
- Dropped: texts not in English, headings without a rule ("miscellaneous", "general"), clauses under {MIN_WORDS} words,
  tables of contents, clauses that open in mid-sentence, repeated clauses, one text under two headings, labels with
  fewer than {MIN_ROWS_PER_LABEL} rows.
- Known noise: a label is what the heading says; a clause may also speak of other things, and neighbors such as "grant",
  "restrictions" and "distribution" overlap. Near-duplicates within training stay: firms share boilerplate, as in life.
- Firms differ in {"their practice (clause types)" if skew == "label" else "the license family of their documents"}.
- Dealt with dominance {partition.dominance} and seed {partition.seed}.

## What dominates

{themes}

## Test rows

{test_table(test, labels)}
"""
