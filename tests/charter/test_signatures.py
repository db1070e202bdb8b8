"""The file of signatures comes back as it was, and anything else is one line."""

import contextlib
import json
from pathlib import Path

import pytest
from cotune.charter import signatures
from cotune.errors import UserError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.dictionaries(NAMES, st.binary(min_size=64, max_size=64), max_size=5))
def test_signatures_come_back(tmp_path: Path, found: dict[str, bytes]) -> None:
    file = tmp_path / "signatures.json"
    signatures.save(found, file)
    assert signatures.load(file) == found


def test_no_file_is_no_signature(tmp_path: Path) -> None:
    assert signatures.load(tmp_path / "none.json") == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.binary(max_size=200))
def test_random_bytes_are_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "signatures.json"
    file.write_bytes(content)
    with contextlib.suppress(UserError):
        # No sixty-four bytes of a signature fit, so only an empty object is a file of signatures.
        assert signatures.load(file) == {}


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "[" * 60_000,
        json.dumps({"a": "ab" * 63}),
        json.dumps({"a": "AB" * 64}),
        json.dumps({"a": 5}),
        json.dumps({"a b": "ab" * 64}),
        json.dumps({"a" * 65: "ab" * 64}),
        json.dumps({"a": "ab" * 64}) + " " * 2_100_000,
        '"\ud800"'.encode("utf-16", "surrogatepass").decode("latin1"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "signatures.json"
    file.write_text(content, encoding="latin1")
    with pytest.raises(UserError, match="not a file of signatures"):
        signatures.load(file)
