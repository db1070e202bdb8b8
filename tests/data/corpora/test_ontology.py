"""OBO stanzas: what is read of them, what is not."""

from cotune.data.corpora.ontology import below, release, terms

CONTENT = r"""format-version: 1.2
data-version: hp/releases/2025-01-16

[Term]
id: X:1
name: Root

[Term]
id: X:2
name:  Dry   eye
def: "[Term] in a definition" []
synonym: "Eye that is \"dry\"" EXACT layperson [y:1, "layperson"]
synonym: "Xerophthalmia" EXACT [y:2]
synonym: "XO" EXACT abbreviation []
synonym: "Sicca" RELATED layperson []
is_a: X:1 ! Root
is_a: X:3 {source="y"} ! Other

[Term]
id: X:3
name: Other
is_a: X:1 ! Root

[Term]
id: X:4
name: Gone
is_obsolete: true
is_a: X:1

[Term]
id: X:5

[Typedef]
id: part_of
name: part of
"""


def test_terms_and_their_synonyms() -> None:
    known = terms(CONTENT)
    assert list(known) == ["X:1", "X:2", "X:3"]
    dry = known["X:2"]
    assert (dry.name, dry.parents) == ("Dry eye", ("X:1", "X:3"))
    assert dry.plain == ('Eye that is "dry"',)
    assert dry.synonyms == ("Xerophthalmia",)


def test_what_lies_below() -> None:
    known = terms(CONTENT)
    assert below(known, "X:1") == {"X:1", "X:2", "X:3"}
    assert below(known, "X:3") == {"X:3", "X:2"}


def test_the_release() -> None:
    assert release(CONTENT) == "hp/releases/2025-01-16"
    assert release("[Term]\n") == ""
