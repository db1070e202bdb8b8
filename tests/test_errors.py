"""One line for a person, also of what a library says in many."""

import pytest
from cotune.errors import first_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no"), "no"),
        (ValueError("\n  a  b\n\nmore"), "a b"),
        (KeyError("key"), "'key'"),
        (AssertionError(), "AssertionError"),
        (ValueError("x" * 30), "x" * 17 + "..."),
    ],
)
def test_the_first_line_of_what_a_library_says(error: Exception, said: str) -> None:
    assert first_line(error, 20) == said
