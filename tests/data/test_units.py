"""Units partition the rows; a data set is known by its texts and ids, however they are spelled."""

import unicodedata
from dataclasses import replace

import pytest
from cotune.data.records import PLAIN, Message, Record, check_distinct, check_labels
from cotune.data.units import each_row, group, holdings
from cotune.errors import UserError
from cotune.privacy.holdings import Shared
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


SPELLINGS = st.tuples(
    st.sampled_from(["m\u00fcller", "anna", "p-1", "7"]),
    st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]),
    st.text(st.sampled_from("\u200b\ufeff\u034f\ufe0f\u3164\x1b"), max_size=2),
    st.text(st.sampled_from(" \u00a0\u2800"), max_size=2),
    st.booleans(),
)


def spelled(parts: tuple[str, str, str, str, bool]) -> str:
    name, form, hidden, blanks, capital = parts
    text = name[:2] + hidden + name[2:] + blanks
    return unicodedata.normalize(form, text.upper() if capital else text)  # type: ignore[arg-type]


@given(st.lists(SPELLINGS, min_size=1, max_size=12))
def test_a_person_is_one_unit_under_every_spelling(rows: list[tuple[str, str, str, str, bool]]) -> None:
    """In training as in the ledger; the same partition as with ids that were spelled in one way from the start."""
    told, plain = [record("x", unit=spelled(row)) for row in rows], [record("x", unit=row[0]) for row in rows]
    units = group(told)
    assert (units.ids, units.rows) == (group(plain).ids, group(plain).rows)
    assert units.ids == tuple(dict.fromkeys(row[0] for row in rows))
    names = {row[0]: {spelled(other) for other in rows if other[0] == row[0]} for row in rows}
    assert units.respelled == sum(len(each) > 1 for each in names.values())
    assert bool(units.note) == (units.respelled > 0)
    assert len(holdings(told, "patient").telling) == 1 + len(units.ids)
    assert len(group(each_row(told)).ids) == len(rows)


def test_the_note_holds_no_id_and_an_id_of_nothing_is_no_unit() -> None:
    two = group([record("x", unit=name) for name in ("Ann", "ann", "Bo", "b\u200bo", "c")])
    assert two.note.startswith("2 unit ids are spelled in more than one way")
    assert group([record("x", unit=name) for name in ("Ann", "ann")]).note.startswith("1 unit id is")
    with pytest.raises(ValueError, match="without a unit id"):
        group([record("x", unit="\u200b")])


def test_the_name_of_a_unit_may_be_spelled_otherwise() -> None:
    records = [record("x", unit="p1")]
    assert holdings(records, "patient") == holdings(records, "\uff30atient\u200b ")
    assert holdings(records, "patient") != holdings(records, "patients")


def test_each_row_its_own_unit() -> None:
    records = [record("x", "p"), record("y", "p"), record("y", "q")]
    assert len(group(each_row(records)).ids) == 3


@given(st.lists(st.text(max_size=3), min_size=1, max_size=6), st.randoms())
def test_a_data_set_is_known_by_its_texts_in_any_order(texts: list[str], source: "st.random.Random") -> None:
    records = [record(text) for text in texts]
    other = [replace(entry, unit="other", label="l", group="g") for entry in [*records, *records[:2]]]
    source.shuffle(other)
    assert holdings(records, None) == holdings(other, None)
    assert holdings(records, None).name == holdings(other, None).name


WORDS = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Z", "Cc")), min_size=1), max_size=4)
SPACES = st.text(st.sampled_from(" \t\n\r\f\v\x85\u00a0\u2009\u2028\u3000"), min_size=1, max_size=3)
FORMS = st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"])


@given(words=WORDS, spaces=st.lists(SPACES, min_size=5, max_size=5), form=FORMS)
def test_spelling_makes_no_other_record_and_no_other_unit(words: list[str], spaces: list[str], form: str) -> None:
    """Line ends, white space and Unicode forms, in the texts and in the ids."""
    spelled = spaces[0] + "".join(word + space for word, space in zip(words, spaces[1:], strict=False))
    plain, spelled = " ".join(words), unicodedata.normalize(form, spelled)  # type: ignore[arg-type]
    one = [record(plain, unit=plain, answer=plain)]
    other = [record(spelled, unit=spelled, answer=spelled)]
    assert holdings(one, "patient") == holdings(other, "patient")


def seen(text: str) -> str:
    visible = (letter for letter in text if unicodedata.category(letter) not in {"Cf", "Cc"} and not letter.isspace())
    return unicodedata.normalize("NFKC", "".join(visible))


HIDDEN = st.text(
    st.sampled_from("\u200b\ufeff\u00ad\u200d\u2060\u202e\ufe0f\u034f\u3164\u180b\u17b4\x1b\x7f\ufffe"), max_size=2
)


@given(
    letters=st.text("ae\u0301\u00e9\u1e9b\u0323\ufb01 ", max_size=5), hidden=st.lists(HIDDEN, min_size=6, max_size=6)
)
def test_what_cannot_be_seen_makes_no_other_record_and_no_other_unit(letters: str, hidden: list[str]) -> None:
    """Wherever it stands: also between a letter and its accent."""
    spelled = hidden[-1] + "".join(letter + mark for letter, mark in zip(letters, hidden, strict=False))
    one = [record(letters, unit=letters, answer=letters)]
    other = [record(spelled, unit=spelled, answer=spelled)]
    assert holdings(one, "patient") == holdings(other, "patient")


@pytest.mark.parametrize("answers", [("J20.9", "E11."), ("", "")], ids=["recoded", "left out"])
def test_another_answer_makes_no_other_record(answers: tuple[str, str]) -> None:
    old = [record("a cough", answer="J20"), record("thirst", answer="E11")]
    new = [replace(row, answer=answer) for row, answer in zip(old, answers, strict=True)]
    assert holdings(old, None).name != holdings(new, None).name
    assert holdings(old, None).shared(holdings(new, None)) == Shared(2, 0)
    assert holdings(old[:1], None).is_kin(holdings(new, None))


def test_a_prompt_is_not_what_another_record_is_with_its_answer() -> None:
    whole = record("x", answer="yes")
    longer = Record((Message("user", "x"), Message("assistant", "yes")), "more", "u")
    assert not holdings([whole], None).is_kin(holdings([longer], None))


def test_what_the_documents_say_is_not_found() -> None:
    """Without ids: other words for all rows, a dialog that has grown, one that was split."""
    turns = (Message("user", "x"), Message("assistant", "y"), Message("user", "z"))
    old = [Record(turns, "end", "u")]
    for changed in (
        [Record((Message("user", "Answer: x"), *turns[1:]), "end", "u")],
        [Record((*turns, Message("assistant", "end"), Message("user", "more")), "yes", "u")],
        [Record(turns[:1], "y", "u"), Record(turns[2:], "end", "u")],
    ):
        assert not holdings(old, None).is_kin(holdings(changed, None))
        assert holdings(old, "patient").is_kin(holdings(changed, "patient"))


@given(st.text(max_size=8), st.text(max_size=8))
def test_other_words_are_another_record(one: str, other: str) -> None:
    """What is not the same when compatibility forms, white space and what cannot be seen are set aside."""
    same = seen(one) == seen(other)
    kin = holdings([record(one)], None).is_kin(holdings([record(other)], None))
    assert same or not kin


def test_every_text_counts_and_its_place_among_the_turns() -> None:
    records = [record("x"), record("y")]
    changed = [
        [record("x"), record("z")],
        [record("x"), record("Y")],
        [record("x"), record("y", answer="no")],
        [record("x")],
        [record("x"), Record((Message("user", "y"), Message("assistant", "yes")), "yes", "u")],
        [record("xy"), record("")],
        [record("x y")],
    ]
    assert len({holdings(entry, None).name for entry in [records, *changed]}) == 1 + len(changed)


def test_an_instruction_to_the_model_makes_no_other_record() -> None:
    (plain,) = bare = [record("x")]
    told = [replace(plain, prompt=(Message("system", "Answer briefly."), *plain.prompt))]
    completed = [replace(plain, prompt=(Message(PLAIN, "x"),))]
    assert holdings(bare, None) == holdings(told, None) == holdings(completed, None)
    # Where there is nothing else, it is the text.
    only = [[replace(plain, prompt=(Message("system", text),))] for text in "ab"]
    assert not holdings(only[0], None).is_kin(holdings(only[1], None))
    assert holdings(only[0], None).is_kin(holdings([replace(only[0][0], answer="no")], None))


def test_ids_of_the_organizations_own_tie_data_sets_together_and_places_in_a_file_do_not() -> None:
    old, new = [record("x", unit="p1"), record("y", unit="p2")], [record("z", unit="p2"), record("w", unit="p3")]
    assert holdings(old, "patient").shared(holdings(new, "patient")) == Shared(0, 1)
    assert not holdings(old, "patient").is_kin(holdings(new, "visit"))
    assert not holdings(old, None).is_kin(holdings(new, None))
    # An id is no text, and a text no id.
    assert not holdings([record("p1", unit="q", answer="")], "patient").is_kin(holdings(old, "patient"))
    assert len(holdings(old, "patient").telling) == 4
    assert len(holdings([*old, record("x", unit="p3")], "patient").telling) == 5


def test_labels_must_be_those_agreed_on() -> None:
    records = [record("x", label="a"), record("y", label="b"), record("z", label="c"), record("w")]
    check_labels(records[:2], ("a", "b"))
    with pytest.raises(UserError, match=r"row 3: the label 'c' is not one of the 2 agreed on \(2 such rows\)"):
        check_labels(records, ("a", "b"))
    check_labels([record("x", label="a\u200b "), record("y", label="b")], ("a", " b"))


def test_labels_must_be_spelled_in_one_way() -> None:
    check_distinct(("yes", "Yes", "yes", "no"), "here")
    for other in ("yes ", "\u00a0yes", "y\u200bes", "ye\u017f"):
        with pytest.raises(UserError) as caught:
            check_distinct(("no", "yes", other), "here")
        assert str(caught.value).startswith(f"here: 'yes' and {other!a} are one label in two spellings")
