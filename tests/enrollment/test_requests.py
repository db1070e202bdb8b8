"""Join requests: signed by the key that they name, for one federation, whole."""

from pathlib import Path

import pytest
from cotune.charter.refusal import Refusal
from cotune.charter.signing import public_hex
from cotune.enrollment import requests
from cotune.errors import UserError
from cotune.secagg.identity import new_identity
from cotune.secagg.suites import CLASSIC, HYBRID
from hypothesis import given, settings
from hypothesis import strategies as st

KEY = new_identity(CLASSIC)
ASKED = requests.request(KEY, "forest", "alder", 700)


@pytest.mark.parametrize("suite", [CLASSIC, HYBRID], ids=lambda suite: suite.name)
def test_a_request_comes_back_and_makes_a_member(suite: object, tmp_path: Path) -> None:
    key = new_identity(suite)  # type: ignore[arg-type]
    requests.save(requests.request(key, "forest", "birch", 12), tmp_path / "birch.yaml")
    member = requests.member_of(requests.load(tmp_path / "birch.yaml"), "forest")
    assert (member.name, member.public_key, member.nominal_units) == ("birch", public_hex(key), 12)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "birch"},
        {"nominal_units": 701},
        {"public_key": public_hex(new_identity(CLASSIC))},
        {"signature": "00" * 64},
        {"signature": requests.request(KEY, "forest", "alder", 7).signature},
    ],
    ids=["name", "units", "key", "nothing", "another request's"],
)
def test_a_changed_request_is_refused(change: dict) -> None:
    with pytest.raises(Refusal) as caught:
        requests.member_of(ASKED.model_copy(update=change), "forest")
    assert caught.value.code == "join.signature"


def test_a_request_for_another_federation_is_refused() -> None:
    with pytest.raises(Refusal) as caught:
        requests.member_of(ASKED, "desert")
    assert caught.value.code == "join.federation"
    with pytest.raises(Refusal):  # nor can it be relabelled
        requests.member_of(ASKED.model_copy(update={"federation": "desert"}), "desert")


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=400))
def test_foreign_bytes_are_one_line(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "request.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        requests.load(file)
    assert "\n" not in str(caught.value)
