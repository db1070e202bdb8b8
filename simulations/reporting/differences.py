"""Where two configurations differ."""

from collections.abc import Callable, Mapping
from typing import Any

Place = tuple[str, ...]


def first_difference(one: Any, other: Any, ignored: Callable[[Place], bool], place: Place = ()) -> str:
    """Dotted name of the first key, in order, at which two nested mappings differ; empty where they do not.

    Args:
        ignored: whether what stands at a place does not matter. A key that only one of them has is a difference.
    """
    if place and ignored(place):
        return ""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return "" if one == other else ".".join(place) or "everything"
    for key in sorted({*one, *other}, key=str):
        inner = (*place, str(key))
        if (key in one) != (key in other):
            if not ignored(inner):
                return ".".join(inner)
            continue
        found = first_difference(one[key], other[key], ignored, inner)
        if found:
            return found
    return ""
