"""YAML within bounds: no anchors, aliases, tags, directives, merge keys, duplicate keys or endless numbers.

Scanning and parsing are libyaml's where PyYAML was built with it, else PyYAML's own, some five times slower. The rules
stand in the composer and the constructor, which are the same for both.
"""

import re
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import Resolver
from yaml.scanner import Scanner

try:
    from yaml._yaml import CParser
except ImportError:  # PyYAML was built without libyaml
    CParser = None  # type: ignore[assignment, misc]

MOST_DEPTH = 20
_MOST_DIGITS = 64
# libyaml compares each %TAG with all before it. No document of ours has a directive, and no key begins with %.
_DIRECTIVE = re.compile("(?:^|[\n\r\x85\u2028\u2029\ufeff])%")


def load(text: str, most_nodes: int) -> Any:
    """The data of a YAML document.

    Args:
        text: what was read; whoever read it has bounded its length.
        most_nodes: the most mappings, lists and scalars, keys included.

    Raises:
        yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError: it is not such YAML, or it
            is beyond the bounds.
    """
    if _DIRECTIVE.search(text):
        raise yaml.YAMLError("a line that begins with %")
    loader = (_PlainLoader if CParser is None else _FastLoader)(text)
    loader.left = most_nodes
    try:
        return loader.get_single_data()  # type: ignore[no-untyped-call]
    finally:
        loader.dispose()


class _Rules(Composer, SafeConstructor, Resolver):
    """What is refused, whoever parses."""

    left = 0
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[attr-defined]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError("anchors and aliases are not allowed")
        if getattr(event, "tag", None) is not None:
            # The two parsers do not read all of them alike, and no document needs one.
            raise yaml.YAMLError(f"{_place(event)}: tags are not allowed")
        self.left, self.depth = self.left - 1, self.depth + 1
        if self.left < 0:
            raise yaml.YAMLError(f"{_place(event)}: more values than such a file needs")
        if self.depth > MOST_DEPTH:
            raise yaml.YAMLError(f"{_place(event)}: nested deeper than {MOST_DEPTH}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        plain = isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str"
        if isinstance(node, yaml.ScalarNode) and not plain and len(node.value) > _MOST_DIGITS:
            # YAML's numbers of base 60 take time that grows with the square of their length.
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {len(node.value)} characters that are no text")
        return super().construct_object(node, deep)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            place = f"line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"{place}: a key that is not a plain name")
            if key.value in seen:
                raise yaml.YAMLError(f"{place}: key {key.value[:64]!r} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _place(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "somewhere"


class _PlainLoader(Reader, Scanner, Parser, _Rules):
    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)  # type: ignore[no-untyped-call]
        Parser.__init__(self)  # type: ignore[no-untyped-call]
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)


if CParser is not None:

    class _FastLoader(_Rules, CParser):  # type: ignore[misc]
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            Composer.__init__(self)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)
