"""When two ids, names, labels or texts are the same: they have one canonical form, and nothing else is ever compared.

And what of a stranger's text is printed: `printable`.

What decides is Unicode's, not a list of ours: compatibility normalization (UAX #15), and the properties
Default_Ignorable_Code_Point, White_Space, Noncharacter_Code_Point and Dash (UAX #44). What is trained on, shown and
scored stays as its author wrote it; a canonical form is for comparing, grouping and hashing.

Compatibility forms (NFKC) are taken as one, not only composed ones (NFC): the full-width digits, ligatures, narrow
blanks and superscripts of one source are plain characters in another. For ids a false "different" makes several units
of one person, who is then clipped and drawn several times, which breaks the guarantee; a false "same" protects two
people as one, and costs accuracy only. For labels a false "same" is a refusal that names both.

Not the same: letters of other scripts that look alike (Cyrillic and Latin a), other words, and in texts another letter
case. Unicode never changes the normal form of an assigned character, so canonical forms stay what they are under a
newer Python, except where they hold characters that the older one did not know.
"""

import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

import regex

# Whoever reads a text sees none of these: what a display leaves out (zero-width marks, variation selectors, fillers,
# soft hyphens), format and control characters, and code points that are no characters. White space goes elsewhere.
_HIDDEN: Final = regex.compile(
    r"[[\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}\p{Cf}\p{Cc}]--\p{White_Space}]", regex.V1
)
# White space, and symbols that are drawn as a blank, for which Unicode has no property: the Braille pattern without
# dots, the musical null notehead, the blanks of hieroglyphs, the Khitan filler.
_BLANK: Final = regex.compile(r"[\p{White_Space}\u2800\U0001D159\U00013441\U00013442\U00016FE4]", regex.V1)
_DASH: Final = regex.compile(r"\p{Dash}")
_QUOTE: Final = regex.compile(r"[\p{Quotation_Mark}\u02BC]")


def plain(text: str) -> str:
    """The canonical form of a text or a label; two are the same where theirs are equal.

    Compatibility forms are composed (NFKC), what cannot be seen is left out, and every run of blanks is one space, with
    none at the ends. Letter case counts: in a text it carries meaning.

    Guarantees: idempotent; the same for all normal forms of a text, and with any hidden character put in anywhere.
    Edge cases: empty where nothing is to be seen.
    """
    text = unicodedata.normalize("NFKC", text)
    # By the few characters that a text is made of: a search through all of a long one would take far longer.
    roles = {ord(letter): role for letter in set(text) if (role := _role(letter)) is not None}
    text = text.translate(roles)
    if "" in roles.values():
        # A mark that stood between a letter and its accent is gone: they may compose now.
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split())


def is_blank(text: str) -> bool:
    """Whether nothing is to be seen in a text: `plain` of it is empty. It stops at the first character that is seen."""
    return all(letter == " " or _role(letter) is not None for letter in text)


def plain_id(text: str) -> str:
    """The canonical form of an id or a name: `plain`, where letter case, kinds of dash and of quotation mark are one.

    P1 and p1 are far more often one patient, typed twice, than two; and office programs put dashes and curly
    apostrophes where hyphens and straight ones were typed. To take two people for one is the safe error (see above).
    Where ids do differ in nothing but case, as identifiers in base 62 may, `respelled` finds it, and the user is told.

    Guarantees, edge cases: as `plain`; ids that are the same as texts are the same as ids.
    """
    text = plain(text)
    if text.isascii():
        return text.lower().replace('"', "'")
    while (folded := plain(_QUOTE.sub("'", _DASH.sub("-", _folded(text))))) != text:
        text = folded
    return text


def _folded(text: str) -> str:
    """Letter case folded, the i without a dot and the capital one with it among them: Unicode keeps these apart."""
    return text.casefold().replace("\u0131", "i").replace("i\u0307", "i")


def respelled(texts: Iterable[str], form: Callable[[str], str] = plain) -> dict[str, tuple[str, ...]]:
    """What is spelled in more than one way: canonical form -> its spellings, both in the order of appearance."""
    found: dict[str, dict[str, None]] = {}
    for text in dict.fromkeys(texts):
        found.setdefault(form(text), {})[text] = None
    return {name: tuple(spellings) for name, spellings in found.items() if len(spellings) > 1}


def printable(text: str, also: str = "") -> str:
    """A stranger's text as a terminal or a log may get it: "?" for every character that is no printable one.

    Those are control characters, which terminals take for commands, all blanks but the space, what turns the direction
    of writing, hidden format characters, and what Unicode has not assigned.

    Args:
        also: characters that may stay, e.g. "\\n\\t" where lines are shown as lines.
    """
    return "".join(letter if letter.isprintable() or letter in also else "?" for letter in text)


@lru_cache(maxsize=4096)
def _role(letter: str) -> str | None:
    """What takes a character's place: nothing, a space, or None where it stays."""
    if _HIDDEN.match(letter):
        return ""
    return " " if letter != " " and _BLANK.match(letter) else None
