"""Units partition the rows; the fingerprint knows a data set by its texts alone."""

from dataclasses import replace

import pytest
from cotune.data.records import Message, Record, check_labels
from cotune.data.units import each_row, fingerprint, group
from cotune.errors import UserError
from hypothesis import given
from hypothesis import strategies as st


def record(text: str, unit: str = "u", answer: str = "yes", label: str = "") -> Record:
    return Record((Message("user", text),), answer, unit, label)


@given(st.lists(st.sampled_from("abc"), max_size=20))
def test_units_partition_the_rows(names: list[str]) -> None:
    units = group([record("x", unit=name) for name in names])
    assert len(set(units.ids)) == len(units.ids)
    assert sorted(row for rows in units.rows for row in rows) == list(range(len(names)))
    for unit, rows in zip(units.ids, units.rows, strict=True):
        assert [names[row] for row in rows] == [unit] * len(rows)
        assert list(rows) == sorted(rows)


def test_each_row_its_own_unit() -> None:
    records = [record("x", "p"), record("y", "p"), record("y", "q")]
    assert len(group(each_row(records)).ids) == 3


@given(st.lists(st.text(max_size=3), min_size=1, max_size=6), st.randoms())
def test_the_fingerprint_ignores_order_and_names(texts: list[str], source: "st.random.Random") -> None:
    records = [record(text) for text in texts]
    other = [replace(entry, unit="other", label="l", group="g") for entry in records]
    source.shuffle(other)
    assert fingerprint(records) == fingerprint(other)


def test_the_fingerprint_sees_every_text_and_every_repetition() -> None:
    records = [record("x"), record("y")]
    changed = [
        [record("x"), record("z")],
        [record("x"), record("y", answer="no")],
        [record("x"), record("y"), record("y")],
        [record("x")],
        [record("x"), Record((Message("system", "y"),), "yes", "u")],
        [record("xy"), record("")],
    ]
    assert len({fingerprint(entry) for entry in [records, *changed]}) == 1 + len(changed)


def test_labels_must_be_those_agreed_on() -> None:
    records = [record("x", label="a"), record("y", label="b"), record("z", label="c"), record("w")]
    check_labels(records[:2], ("a", "b"))
    with pytest.raises(UserError, match=r"row 3: the label 'c' is not one of the 2 agreed on \(2 such rows\)"):
        check_labels(records, ("a", "b"))
