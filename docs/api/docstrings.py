"""Lets a line of a docstring's section name several things, as the code's do; an extension of Griffe, see mkdocs.yml.

`n: how many. seed: of the draw.` under "Args:" is read as two parameters.
"""

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^( *)(Args|Attributes|Raises):\n((?:\1 +\S.*(?:\n|$)|\n(?=\1 ))+)", re.MULTILINE)
_NEXT = {
    "Args": re.compile(r"(?<=[.;)]) (?=([a-z]\w*): )"),
    "Attributes": re.compile(r"(?<=[.;)]) (?=([a-z]\w*): )"),
    "Raises": re.compile(r"(?<=[.;)]) (?=([A-Z]\w+): )"),
}


def one_each(docstring: str, names: frozenset[str]) -> str:
    """The docstring with a line of its own for each thing that its sections name.

    Args:
        docstring: without indentation.
        names: what may be named under "Args:".
    """

    def rewritten(section: re.Match[str]) -> str:
        head, items = section[2], section[3]
        line = "\n" + items[: len(items) - len(items.lstrip(" "))]
        return f"{section[1]}{head}:\n" + _NEXT[head].sub(
            lambda found: line if head != "Args" or found[1] in names else " ", items
        )

    return _SECTION.sub(rewritten, docstring)


class OneEach(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            named = obj.parameters if isinstance(obj, griffe.Function | griffe.Class) else ()
            fields = obj.members if isinstance(obj, griffe.Class) else ()
            names = frozenset([*(each.name for each in named), *fields])
            obj.docstring.value = one_each(obj.docstring.value, names)
