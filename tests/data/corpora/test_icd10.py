"""The ICD-10 corpus: what becomes a row, what is dropped, how it is split; and the real package."""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cotune.data.corpora import icd10
from cotune.data.corpora.examples import opening
from cotune.data.corpora.partition import Partition
from cotune.data.packages import PinnedPackage, fetch
from cotune.errors import UserError

Write = Callable[..., Path]
PACKAGE = PinnedPackage(
    name="simple-icd-10-cm", version="1.5.0", sha256="6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42"
)


def test_rows_labels_and_card(tabular: Write, tmp_path: Path) -> None:
    folder = tabular(tmp_path, {1: 20, 2: 20, 9: 20, 19: 20, 22: 3})
    corpus = icd10.build(folder, Partition(2, 30, 0.8, 10, 1), PACKAGE)
    assert corpus.labels == ("infection", "cancer", "heart", "injury")  # chapter 22 is dropped
    rows = [row for records in corpus.organizations.values() for row in records] + corpus.test
    assert len(rows) == 70
    texts = [row.prompt[-1].content for row in rows]
    assert len(set(texts)) == 70
    assert not any("Too long a code" in text for text in texts)
    for row in rows:
        assert row.answer == row.label
        assert row.prompt[:-1] == opening(icd10.SYSTEM, icd10.EXAMPLES)
        assert row.prompt[-1].role == "user"
    injuries = [row for row in rows if row.label == "injury"]
    assert injuries
    assert all(row.prompt[-1].content.startswith("Form") for row in injuries)  # inclusion terms only
    assert {row.group for row in corpus.test} == set(corpus.organizations)
    for fact in ("simple-icd-10-cm==1.5.0", PACKAGE.sha256, "hospital-2", "seed 1", "MIT"):
        assert fact in corpus.shown.card


def test_a_unit_is_a_subcategory_in_one_place(tabular: Write, tmp_path: Path) -> None:
    corpus = icd10.build(tabular(tmp_path, {1: 30, 2: 30}), Partition(2, 0, 0.8, 20, 1))

    def group(text: str) -> str:
        return next(word for word in text.split() if "-" in word)  # the fixture writes the group into each term

    places = [*corpus.organizations.values(), corpus.test]
    units = [{row.unit for row in rows} for rows in places]
    assert sum(map(len, units)) == len(set().union(*units))
    rows = [row for place in places for row in place]
    assert len({(row.unit, group(row.prompt[-1].content)) for row in rows}) == len({row.unit for row in rows})
    assert max(Counter(row.unit for row in corpus.organizations["hospital-1"]).values()) == 4  # a title, three terms


def test_validation_rows_are_of_units_of_their_own(tabular: Write, tmp_path: Path) -> None:
    corpus = icd10.build(tabular(tmp_path, {1: 60, 2: 60}), Partition(2, 60, 0.8, 20, 1))
    places = [*corpus.organizations.values(), corpus.test, list(corpus.validation)]
    units = [{row.unit for row in rows} for rows in places]
    assert sum(map(len, units)) == len(set().union(*units))
    assert len(corpus.validation) == 20
    assert Counter(row.group for row in corpus.validation) == {"hospital-1": 10, "hospital-2": 10}
    assert {row.label for row in corpus.validation} == {"infection", "cancer"}


def test_titles_know_their_chapter(tabular: Write, tmp_path: Path) -> None:
    folder = tabular(tmp_path, {1: 20, 2: 20, 22: 3})
    file = next((folder / "simple_icd_10_cm" / "data").glob("*.xml"))
    text = file.read_text()
    for number in (1, 2, 22):
        text = text.replace(f"<name>{number}</name>", f"<name>{number}</name><desc>Title {number} (A00-B99)</desc>")
    file.write_text(text.replace("<section>", "<section><desc>A block</desc>"))
    corpus = icd10.build(folder, Partition(2, 10, 0.8, 4, 1))
    found = [(row.prompt[-1].content, row.answer, row.label) for row in corpus.answered]
    assert found == [
        ("Title 1", "infection", "infection"),
        ("A block", "infection", "infection"),
        ("Title 2", "cancer", "cancer"),
        ("A block", "cancer", "cancer"),
    ]
    assert [row.prompt for row in corpus.public] == [row.prompt for row in corpus.answered]
    assert [row.answer for row in corpus.public] == ["infection", "cancer"] * 2  # they go round


def test_the_terms_of_a_unit(tabular: Write, tmp_path: Path) -> None:
    finer = "<diag><name>Q70.11</name><desc>Not said</desc><inclusionTerm><note>Finest</note></inclusionTerm></diag>"
    first = f"<diag><name>Q70.1</name><desc>First</desc><inclusionTerm><note>One</note></inclusionTerm>{finer}</diag>"
    second = "<diag><name>Q70.2</name><desc>Second</desc></diag>"
    extra = f"<diag><name>Q70</name><desc>Both</desc>{first}{second}</diag>"
    bundles, _ = icd10._bundles(icd10._tabular(tabular(tmp_path, {1: 1}, extra)))
    found = {bundle.kin: {(row.unit, row.prompt[-1].content) for row in bundle.rows} for bundle in bundles}
    assert found["Q70"] == {("icd10-Q70", "Both")}
    assert found["Q70.1"] == {("icd10-Q70.1", term) for term in ("First", "One", "Finest")}
    assert found["Q70.2"] == {("icd10-Q70.2", "Second")}


def test_the_card_counts_no_rows_of_a_hospital(tabular: Write, tmp_path: Path) -> None:
    corpus = icd10.build(tabular(tmp_path, {1: 30, 2: 30}), Partition(2, 57, 0.8, 20, 1))
    assert "| all | 20 |" in corpus.shown.card
    own = [Counter(row.label for row in rows) for rows in corpus.organizations.values()]
    counts = {count for counter in own for count in counter.values() if count > 20}
    assert counts
    assert not counts & set(map(int, re.findall(r"\d+", corpus.shown.card)))


def test_a_term_of_two_chapters_has_no_right_answer(tabular: Write, tmp_path: Path) -> None:
    twin = "<diag><name>A99.1</name><desc>form 0, of ALPHA 2-0</desc></diag>"  # chapter 2 has this term
    same = "<diag><name>A99.2</name><desc>form 0 of alpha 1-0</desc></diag>"  # chapter 1 itself has this one
    bundles, dropped = icd10._bundles(icd10._tabular(tabular(tmp_path, {1: 10, 2: 10}, twin + same)))
    terms = [row.prompt[-1].content.casefold() for bundle in bundles for row in bundle.rows]
    assert dropped == 1
    assert not any("of alpha 2-0" in term and "form 0" in term for term in terms)
    assert sum("form 0 of alpha 1-0" in term for term in terms) == 1


def test_broken_packages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ICD-10-CM tabular XML"):
        icd10.build(tmp_path, Partition(2, 0, 0.8, 10, 1))
    data = tmp_path / "simple_icd_10_cm" / "data"
    data.mkdir(parents=True)
    (data / "icd10c-tabular-x.xml").write_text("<a><b></a>")
    with pytest.raises(UserError, match="broken XML"):
        icd10.build(tmp_path, Partition(2, 0, 0.8, 10, 1))
    (data / "icd10c-tabular-x.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    with pytest.raises(UserError, match="not the tabular list"):
        icd10.build(tmp_path, Partition(2, 0, 0.8, 10, 1))


@pytest.mark.slow
def test_the_real_package(tmp_path: Path) -> None:
    folder = fetch(PACKAGE, Path(os.environ.get("COTUNE_TEST_CACHE", tmp_path)))
    corpus = icd10.build(folder, Partition(4, 2400, 0.8, 400, 1), PACKAGE)
    assert len(corpus.labels) == 21
    units = [{row.unit for row in rows} for rows in (*corpus.organizations.values(), corpus.test)]
    assert sum(map(len, units)) == len(set().union(*units))
    assert [len(rows) for rows in corpus.organizations.values()] == [2400] * 4
    assert len(corpus.test) == 400
    assert len(corpus.answered) == len(corpus.public)
    held = {row.prompt[-1].content.casefold() for rows in (*corpus.organizations.values(), corpus.test) for row in rows}
    titles = [row.prompt[-1].content for row in corpus.public]
    assert len(titles) > 250
    assert not held & {title.casefold() for title in titles}
    assert not any("(" in title for title in titles[:20])  # no codes
    assert icd10.build(folder, Partition(4, 2400, 0.8, 400, 1), PACKAGE) == corpus
