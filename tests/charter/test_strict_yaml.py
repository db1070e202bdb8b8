"""Both parsers give the same data, every bound holds, and the longest input that is let in takes no seconds."""

import time
from contextlib import suppress
from typing import Any

import pytest
import yaml
from cotune.charter import strict_yaml
from cotune.charter.charter import Charter
from hypothesis import given
from hypothesis import strategies as st

SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=30)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
REFUSED = (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError)
needs_libyaml = pytest.mark.skipif(strict_yaml.CParser is None, reason="PyYAML without libyaml")


def _both(text: str, monkeypatch: pytest.MonkeyPatch, nodes: int = 1_000) -> list[Any]:
    """What libyaml and PyYAML's own parser give, or `REFUSED`."""
    found: list[Any] = []
    for parser in (strict_yaml.CParser, None):
        with monkeypatch.context() as patch:
            patch.setattr(strict_yaml, "CParser", parser)
            try:
                found.append(strict_yaml.load(text, nodes))
            except REFUSED:
                found.append(REFUSED)
    return found


@needs_libyaml
@given(data=DATA, flow=st.sampled_from([None, True, False]), width=st.integers(20, 120), ascii=st.booleans())
def test_what_is_dumped_comes_back_from_both(data: Any, flow: bool | None, width: int, ascii: bool) -> None:
    text = yaml.safe_dump(data, default_flow_style=flow, width=width, allow_unicode=not ascii)
    with pytest.MonkeyPatch.context() as patch:
        fast, plain = _both(text, patch)
    assert repr(fast) == repr(plain)
    # PyYAML writes line breaks of other scripts as they are, and reads them as blanks.
    if ascii and "&id" not in text and fast is not REFUSED:
        assert fast == data


@needs_libyaml
@given(text=st.text(st.sampled_from(list("ab1:-?[]{},#'\"\\|>&*!%@` \n")), max_size=40))
def test_both_refuse_the_same_or_read_the_same(text: str) -> None:
    """Whatever one of them takes the other takes for the same data, or refuses."""
    with pytest.MonkeyPatch.context() as patch:
        fast, plain = _both(text, patch)
    assert REFUSED in (fast, plain) or repr(fast) == repr(plain)


@pytest.mark.parametrize(
    "text",
    [
        "a: &x 1",
        "a: &x [1]\nb: *x",
        "<<: {a: 1}",
        "a: {<<: {b: 1}}",
        "a: 1\n'a': 2",
        "a: {b: 1, b: 2}",
        "? {a: 1}\n: 2",
        "%TAG ! tag:x,2000:\n---\na: 1",
        "\ufeff%YAML 1.1\n---\na: 1",
        "a: 1\n---\nb: 2",
        "a: !!python/name:os.system ''",
        "a: !mine 1",
        "a: !!str 1",
        "a: ! 1",
        "!",
        "a: \x01",
    ],
)
def test_both_refuse(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _both(text, monkeypatch) == [REFUSED, REFUSED]


def test_depth_and_nodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    deepest = strict_yaml.MOST_DEPTH
    for text, fits in (("[" * deepest + "]" * deepest, True), ("[" * (deepest + 1) + "]" * (deepest + 1), False)):
        fast, plain = _both(text, monkeypatch)
        assert (fast is not REFUSED, plain is not REFUSED) == (fits, fits)
    assert _both("[1, {a: 2}]", monkeypatch, nodes=5) == [[1, {"a": 2}]] * 2
    assert _both("[1, {a: 2}]", monkeypatch, nodes=4) == [REFUSED, REFUSED]
    assert _both("[[], [], []]", monkeypatch, nodes=4) == [[[], [], []]] * 2  # depth is not a sum


def _worst() -> dict[str, str]:
    def fill(head: str, piece: str) -> str:
        return (head + piece * Charter.most_bytes)[: Charter.most_bytes]

    return {
        "keys": "".join(f"k{number}: 1\n" for number in range(Charter.most_bytes // 10)),
        "flow": fill("a: [", "1,"),
        "nested": fill("a: [", "[[[[]]]],"),
        "pairs": fill("a: [", "a: b,"),
        "sets": fill("a: [", "? a,"),
        "tags": fill("a: [", "!!str a,"),
        "deep": fill("a: ", "["),
        "deep block": fill("", "- "),
        "questions": fill("", "? "),
        "escapes": fill('a: "', "\\x41"),
        "lines": fill("a: ", "a\n "),
        "folded": fill("a: >\n", " a\n\n"),
        "base 60": fill("a: 1", ":1"),
        "comments": fill("", "#\n"),
        "tabs": fill("a:", "\t"),
        "directives": fill("", "%A b\n"),
        "tag directives": "".join(f"%TAG !{number}! a\n" for number in range(Charter.most_bytes // 16)),
        "documents": fill("", "---\na\n"),
        "long key": fill("", "a"),
    }


@needs_libyaml
@pytest.mark.parametrize("name", _worst())
def test_the_longest_input_takes_no_seconds(name: str) -> None:
    text = _worst()[name]
    begun = time.process_time()
    with suppress(REFUSED):
        strict_yaml.load(text, Charter.most_nodes)
    assert time.process_time() - begun < 5  # 1.4 s on a quiet machine
