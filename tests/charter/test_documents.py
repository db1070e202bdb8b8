"""YAML documents: what two parsers could read differently is refused, and every mistake is one line."""

from pathlib import Path

import pytest
from cotune.charter import charter as charters
from cotune.charter import documents
from cotune.charter.charter import Charter
from cotune.charter.policy import Policy
from cotune.errors import UserError
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a mapping"),
        (b"- 1", "not a mapping"),
        (b"a: 1\nb: 2\na: 3\n", "line 3: key 'a' stands twice"),
        (b"a: {b: 1, b: 2}", "stands twice"),
        (b"? [1]\n: 2", "not a plain name"),
        (b"<<: {a: 1}", "not a plain name"),
        (b"a: !!bool x", "not valid YAML"),
        (b"a: !!int ''", "not valid YAML"),
        (b"a: !!timestamp x", "not valid YAML"),
        (b"a: 1" + b":1" * 200 + b".5", "line 1: 403 characters that are no text"),
        (b"a: 1" + b":1" * 1_000_000, "line 1: 2000001 characters that are no text"),
        (b"a: 0x" + b"f" * 5000, "line 1: 5002 characters that are no text"),
        (b"a: &x [1]\nb: *x", "anchors"),
        (b"a: !!python/object:os.system {}", "not valid YAML"),
        (b"a: [", "not valid YAML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a: " + b"[" * 5000, "nested deeper than 20"),
        (b"a: [" + b"1," * Charter.most_nodes + b"]", "more values than such a file needs"),
        (b"%YAML 1.1\n---\na: 1", "begins with %"),
        (b"#" * (Charter.most_bytes + 1), f"longer than {Charter.most_bytes} bytes"),
    ],
)
def test_yaml_that_two_parsers_could_read_differently_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "charter.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        charters.load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        charters.load(tmp_path / "none.yaml")


@given(content=st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_user_error(content: bytes) -> None:
    with pytest.raises(UserError):
        documents.parse(content, Charter, "x")


def test_a_policy_is_small(tmp_path: Path) -> None:
    """1,000 models fit, and a charter's size does not."""
    models = "".join(f"- '{number:064x}'\n" for number in range(1_000))
    text = f"""data: /srv/records.jsonl
form: instruction
columns: {{prompt: question, answer: answer}}
max_epsilon: 1.0
min_members: 3
unit: patient
allow_without_privacy: false
models:
{models}"""
    assert len(documents.parse(text.encode(), Policy, "x").models) == 1_000
    with pytest.raises(UserError, match=f"longer than {Policy.most_bytes} bytes"):
        documents.parse(text.encode() + b"#" * Policy.most_bytes, Policy, "x")
