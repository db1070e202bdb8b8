"""Where two configurations differ."""

import pytest
from cotune.simulations.reporting.differences import first_difference


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        ({"a": 1, "b": {"c": [2]}}, {"b": {"c": [2]}, "a": 1}, ""),
        ({"a": 1, "b": 1}, {"a": 2, "b": 2}, "a"),
        ({"b": {"c": 1, "d": 2}}, {"b": {"c": 1, "d": 3}}, "b.d"),
        ({"b": {"c": None}}, {"b": {}}, "b.c"),
        ({"b": {}}, {"b": 1}, "b"),
        (1, 2, "everything"),
        ({"seed": 1, "x": {"seed": 1}}, {"seed": 2, "x": {"seed": 2}}, ""),
        ({"seed": 1}, {}, ""),
    ],
)
def test_the_first_place_that_matters(one: object, other: object, place: str) -> None:
    assert first_difference(one, other, lambda at: at[-1] == "seed") == place
    assert first_difference(other, one, lambda at: at[-1] == "seed") == place
