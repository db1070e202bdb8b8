"""The clause corpus: families apart, units are documents, nothing repeated; and the real package."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cotune.data.corpora import clauses
from cotune.data.corpora.partition import Partition
from cotune.data.packages import PinnedPackage, fetch
from cotune.errors import UserError

Write = Callable[..., Path]
PACKAGE = PinnedPackage(
    name="licensedcode-data",
    version="32.1.0",
    sha256="18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
)


def test_firms_documents_and_labels(licenses: Write, tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    corpus = clauses.build(licenses(tmp_path, 16), Partition(4, 0, 0.8, 32, 1), PACKAGE, "family")
    assert corpus.labels == ("export", "liability", "termination", "law")
    units = {name: {row.unit for row in rows} for name, rows in corpus.organizations.items()}
    tested = {row.unit for row in corpus.test}
    assert all(units.values())
    for name, own in units.items():
        assert not own & tested  # here a document is a family
        assert not any(own & other for elsewhere, other in units.items() if elsewhere != name)
    for row in corpus.test:
        heading = {"export": "borders", "liability": "damages", "termination": "ends", "law": "courts"}[row.label]
        assert row.prompt[-1].content.startswith(f"The {heading} of")  # the heading is cut
        assert row.answer == row.label
    for fact in ("licensedcode-data==32.1.0", PACKAGE.sha256, "CC-BY-4.0", "firm-4", "seed 1"):
        assert fact in corpus.shown.card
    table = corpus.shown.card.partition("## What dominates")[2].partition("\n## ")[2]
    assert table.startswith("Test rows")
    assert "firm" not in table


def test_a_repeated_clause_stays_once_and_one_under_two_headings_goes(licenses: Write, tmp_path: Path) -> None:
    folder = licenses(tmp_path, 3)
    whole = clauses._distinct(list(clauses.documents(folder)))
    texts = folder / "licensedcode" / "data" / "licenses"
    copied = sorted(texts.glob("com*.LICENSE"))[0]
    (texts / "zz-1.0.LICENSE").write_text(copied.read_text())
    assert clauses._rows(clauses._distinct(list(clauses.documents(folder)))) == clauses._rows(whole)
    (texts / "zz-1.0.LICENSE").write_text(copied.read_text().replace("Export.", "Assignment."))
    assert clauses._rows(clauses._distinct(list(clauses.documents(folder)))) == clauses._rows(whole) - 1


def test_other_languages_and_unknown_categories_are_left_out(licenses: Write, tmp_path: Path) -> None:
    folder = licenses(tmp_path, 1)
    texts = sorted((folder / "licensedcode" / "data" / "licenses").glob("*.LICENSE"))
    texts[0].write_text(texts[0].read_text().replace("notes: none", "language: fr"))
    texts[1].write_text(texts[1].read_text().replace("category: ", "category: Not "))
    assert len(list(clauses.documents(folder))) == len(texts) - 2
    texts[2].write_text("no front matter")
    with pytest.raises(UserError, match="no front matter"):
        list(clauses.documents(folder))
    with pytest.raises(UserError, match="no license texts"):
        list(clauses.documents(tmp_path / "elsewhere"))


@pytest.mark.parametrize("whole", [True, False])
def test_public_text_is_what_nobody_was_dealt(whole: bool, licenses: Write, tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    folder = licenses(tmp_path, 16)
    corpus = clauses.build(folder, Partition(3, 12, 0.8, 8, 1), PACKAGE, "label", whole)
    dealt = [row for rows in corpus.organizations.values() for row in rows]
    texts = {row.prompt[-1].content for row in (*dealt, *corpus.test)}
    assert corpus.public
    assert not any(row.prompt[-1].content in texts for row in corpus.public)
    assert not (whole and {row.unit for row in dealt} & {row.unit for row in corpus.public})
    heading = {"export": "borders", "liability": "damages", "termination": "ends", "law": "courts"}
    assert [row.prompt for row in corpus.answered] == [row.prompt for row in corpus.public]
    assert all(row.prompt[-1].content.startswith(f"The {heading[row.answer]} of") for row in corpus.answered)
    texts |= {row.prompt[-1].content for row in corpus.public}
    assert not any(row.prompt[-1].content in texts for row in corpus.validation)
    # Labels go round, whatever would be right.
    assert [row.answer for row in corpus.public[: len(corpus.labels)]] == list(corpus.labels)[: len(corpus.public)]


def test_validation_rows_share_no_family_with_the_test_set(licenses: Write, tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    corpus = clauses.build(licenses(tmp_path, 30), Partition(3, 30, 0.8, 12, 1), PACKAGE, "label", False)
    assert corpus.validation
    tested = {row.unit for row in corpus.test}  # here a document is a family
    assert not tested & {row.unit for row in corpus.validation}
    assert {row.group for row in corpus.validation} <= set(corpus.organizations)


@pytest.mark.slow
def test_the_real_package(tmp_path: Path) -> None:
    folder = fetch(PACKAGE, Path(os.environ.get("COTUNE_TEST_CACHE", tmp_path)))
    corpus = clauses.build(folder, Partition(4, 500, 0.8, 400, 1), PACKAGE, "family")
    assert len(corpus.labels) >= 25
    assert [len(rows) for rows in corpus.organizations.values()] == [500] * 4
    assert len(corpus.test) == 400
    assert len(corpus.validation) > 100
    assert all(25 <= len(row.prompt[-1].content.split()) <= clauses.MAX_WORDS for row in corpus.test)


def test_skew_by_label_gives_each_firm_a_practice(licenses: Write, tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    corpus = clauses.build(licenses(tmp_path, 16), Partition(4, 0, 0.8, 32, 1), PACKAGE, "label")
    for name, rows in corpus.organizations.items():
        own = {row.label for row in corpus.test if row.group == name}
        assert sum(row.label in own for row in rows) >= 0.7 * len(rows)
    assert "practice" in corpus.shown.card
