"""Headings: which lines open a clause, and what they say."""

import pytest
from cotune.data.corpora.headings import RULES, clauses, label_of


@pytest.mark.parametrize(
    ("heading", "label"),
    [
        ("LIMITATION OF LIABILITY", "liability"),
        ("Limitation on and Exclusion of Remedies and Damages", "liability"),
        ("Disclaimer of Warranty", "warranty"),
        ("Term and Termination", "termination"),
        ("Termination for Patent Action", "patent"),
        ("Governing Law", "law"),
        ("U.S. Government End Users", "government"),
        ("Third-Party Claims", "indemnity"),
        ("Third Party Software", "component"),
        ("Distribution Restrictions", "restrictions"),
        ("Modifications", "modify"),
        ("Modification of this License", "amendment"),
        ("License", "grant"),
        ("Terms and Conditions", None),
        ("Software License Agreement", None),
        ("GNU General Public License", None),
        ("Miscellaneous", None),
    ],
)
def test_labels(heading: str, label: str | None) -> None:
    assert label_of(heading) == label
    assert label_of(heading.upper()) == label


def test_labels_are_distinct_words() -> None:
    labels = [label for label, _ in RULES]
    assert len(set(labels)) == len(labels)
    assert all(label.isalpha() and label.islower() for label in labels)


def test_headings_are_cut_and_bodies_end_where_the_next_begins() -> None:
    text = """Preliminary words.

1. Termination. This license ends
when it ends.

    2.1 GOVERNING LAW

The law of nowhere applies, as does U.S.
law in part.

EXPORT

Nothing leaves.
"""
    assert list(clauses(text)) == [
        ("Termination", "This license ends when it ends."),
        ("GOVERNING LAW", "The law of nowhere applies, as does U.S. law in part."),
        ("EXPORT", "Nothing leaves."),
    ]


def test_shouted_lines_inside_a_paragraph_are_no_headings() -> None:
    text = "1. NO WARRANTY\n\nIN NO EVENT SHALL ANYBODY PAY FOR\nLOSS OF USE, DATA, OR PROFITS;\nOR ANYTHING ELSE\n"
    assert list(clauses(text)) == [
        ("NO WARRANTY", "IN NO EVENT SHALL ANYBODY PAY FOR LOSS OF USE, DATA, OR PROFITS; OR ANYTHING ELSE")
    ]


def test_sentences_are_no_headings() -> None:
    assert not list(clauses("\nThis is a sentence that ends. And another.\n\na license is here\n"))


def test_texts_without_clauses() -> None:
    assert not list(clauses(""))
    assert not list(clauses("\nExport\n"))
