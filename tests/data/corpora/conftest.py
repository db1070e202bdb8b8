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
