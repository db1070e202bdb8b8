"""One canonical form for what looks the same: against Unicode's tables, for every code point and random texts."""

import sys
import unicodedata
from pathlib import Path

import cotune
import pytest
import regex
from cotune.spelling import is_blank, plain, plain_id, printable, respelled
from hypothesis import example, given
from hypothesis import strategies as st

EVERY = [chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
HIDDEN = [
    letter
    for letter in EVERY
    if regex.match(r"[\p{Default_Ignorable_Code_Point}\p{Cf}\p{Cc}\p{Noncharacter_Code_Point}]", letter)
    and not regex.match(r"\p{White_Space}", letter)
]
BLANKS = [letter for letter in EVERY if letter == "\u2800" or regex.match(r"\p{White_Space}", letter)]
FORMS = st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"])
# Letters, accents that compose and that do not, jamo, ligatures, and everything else.
LETTERS = st.text(
    st.one_of(
        st.sampled_from(
            "ae\u0301\u0327\u00e9\u1e9b\u0323\ufb01\uac00\u1100\u1161\u11a8\u0130\u0345\u1fb3\u00df\u03c2-' "
        ),
        st.characters(codec="utf-8"),
    ),
    max_size=12,
)
BOTH = pytest.mark.parametrize("form", [plain, plain_id], ids=["text", "id"])


@BOTH
@given(text=LETTERS)
@example(text="\u00b4")
@example(text="e\u034f\u0301")
@example(text=" \u0345")
def test_idempotent(form: object, text: str) -> None:
    assert form(form(text)) == form(text)  # type: ignore[operator]


@pytest.fixture(scope="module")
def forms() -> dict[str, str]:
    """The canonical form of every character by itself."""
    return {letter: plain(letter) for letter in EVERY}


def test_idempotent_for_every_character(forms: dict[str, str]) -> None:
    changed = {form for letter, form in forms.items() if form != letter}
    assert not [ascii(form) for form in changed if plain(form) != form]
    folded = {plain_id(letter) for letter in EVERY if letter.casefold() != letter}
    assert not [ascii(form) for form in folded if plain_id(form) != form]


@BOTH
@given(text=LETTERS, normal=FORMS)
def test_the_same_in_every_normal_form(form: object, text: str, normal: str) -> None:
    assert form(unicodedata.normalize(normal, text)) == form(text)  # type: ignore[operator,arg-type]


@BOTH
@given(text=LETTERS, place=st.integers(0, 12), hidden=st.text(st.sampled_from(HIDDEN), min_size=1, max_size=3))
@example(text="e\u0301", place=1, hidden="\u034f")
@example(text="a\u0301\u0327", place=2, hidden="\ufe0f")
def test_what_cannot_be_seen_changes_nothing_wherever_it_stands(
    form: object, text: str, place: int, hidden: str
) -> None:
    assert form(text[:place] + hidden + text[place:]) == form(text)  # type: ignore[operator]


def test_every_hidden_character_is_left_out() -> None:
    """All of them, between letters, alone and beside an accent; among them what a version of the ledger let through."""
    assert {*"\ufe0f\u034f\u3164\u180b\u17b4\u200b\u00ad\0\x1b\x7f\x85"} - {"\x85"} <= {*HIDDEN}
    assert len(HIDDEN) > 4000
    for letter in HIDDEN:
        assert (plain(letter), plain(f"e{letter}\u0301"), plain_id(f"P{letter}1")) == ("", "\u00e9", "p1"), ascii(
            letter
        )


@pytest.mark.parametrize("blank", BLANKS, ids=ascii)
def test_every_blank_is_a_space(blank: str) -> None:
    assert plain(f"{blank}a{blank}{blank} b{blank}") == "a b"
    assert plain(blank) == ""


def test_blank_is_what_has_an_empty_form_and_nothing_else_has_one(forms: dict[str, str]) -> None:
    """What a person can see tells texts apart; also most of what no font draws."""
    empty = [letter for letter, form in forms.items() if not form]
    assert empty == [letter for letter in EVERY if is_blank(letter)]
    assert is_blank("".join(["", *empty]))
    assert {*empty} == {*HIDDEN, *BLANKS, *"\U0001d159\U00013441\U00013442\U00016fe4"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("M\u00fcller", "Mu\u0308ller"),
        ("P 1", "P\u00a0\u00a01"),
        ("\uff30\uff11", "P1"),
        ("\ufb01n", "fin"),
        ("yes", " yes\u2800"),
        ("a\r\nb", "a b"),
    ],
)
def test_the_same_text(one: str, other: str) -> None:
    assert plain(one) == plain(other)
    assert plain_id(one) == plain_id(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("p1", "P1"),
        ("P-1", "P\u20111"),
        ("P-1", "P\u20131"),
        ("O'Neill", "O\u2019Neill"),
        ("Stra\u00dfe", "STRASSE"),
        ("\u0130smail", "ismail"),
        ("I\u015eIK", "\u0131\u015f\u0131k"),
    ],
)
def test_the_same_as_ids_and_not_as_texts(one: str, other: str) -> None:
    assert plain(one) != plain(other)
    assert plain_id(one) == plain_id(other)


@pytest.mark.parametrize(("one", "other"), [("P1", "P 1"), ("P1", "P2"), ("a", "\u0430"), ("e", "\u00e9"), ("1", "01")])
def test_different(one: str, other: str) -> None:
    assert plain_id(one) != plain_id(other)


@given(one=LETTERS, other=LETTERS)
def test_one_text_is_one_id(one: str, other: str) -> None:
    assert plain(one) != plain(other) or plain_id(one) == plain_id(other)


def test_what_is_spelled_in_more_than_one_way() -> None:
    assert respelled(["b", "a", "b\u200b", "c", " b", "b", "C"]) == {"b": ("b", "b\u200b", " b")}
    assert respelled(["b", "C", "c"], plain_id) == {"c": ("C", "c")}
    assert respelled(["a", "a"]) == {}


@given(text=st.text(), also=st.sampled_from(["", "\n\t"]))
def test_what_is_printed_moves_no_cursor_and_keeps_its_length(text: str, also: str) -> None:
    shown = printable(text, also)
    assert len(shown) == len(text)
    for letter, given_ in zip(shown, text, strict=True):
        assert letter == given_ or letter == "?"
        assert unicodedata.category(letter) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} or letter in also
    assert printable(shown, also) == shown


def test_printable_by_example() -> None:
    assert printable("\x1b[2Jno\u202ething\x9b5A") == "?[2Jno?thing?5A"
    assert printable("two\nlines\x07") == "two?lines?"
    assert printable("two\nlines\x07", "\n\t") == "two\nlines?"
    assert printable("Straße 中文 '5 €'") == "Straße 中文 '5 €'"


def test_nothing_else_says_what_is_printed() -> None:
    root = Path(cotune.__file__).parent
    sources = [path for room in root.glob("*/__init__.py") for path in room.parent.rglob("*.py")]
    assert [path for path in sources if "isprintable" in path.read_text()] == []
