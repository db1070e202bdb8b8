"""`cotune privacy audit` and `cotune privacy invert`, for people and for programs."""

import json

import pytest
from cotune.cli.app import main
from cotune.privacy import mechanism

TERMS = ["privacy.epsilon=1", "privacy.delta=1e-5", "privacy.sample_rate=0.2", "rounds=10"]
# At this confidence a sound mechanism alarms once in a million runs.
SURE = ["--confidence", "0.999999"]


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def test_audit_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("privacy", "audit", *TERMS, *SURE, "--canaries", "200", "--texts", "20", "--json") == 0
    audits = json.loads(capsys.readouterr().out)["audits"]
    assert [one["audit"] for one in audits] == ["gradient canaries", "text canaries", "text canaries, no privacy"]
    assert [one["canaries"] for one in audits] == [200, 20, 20]
    for one in audits[:2]:
        assert 0 <= one["at_least"] <= one["claimed"] <= 1
        assert (one["steps"], one["delta"], one["confidence"]) == (10, 1e-5, 0.999999)


def test_audit_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("privacy", "audit", *TERMS, *SURE, "--canaries", "200", "--texts", "0") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[0] == "audit"
    assert shown[1].startswith("gradient canaries")
    assert "confidence 0.999999" in shown[2]
    assert len(shown) == 4


def test_an_alarm_is_an_exit_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    right = mechanism.gaussian
    monkeypatch.setattr(mechanism, "gaussian", lambda size, std: right(size, std / 100))
    assert run("privacy", "audit", *TERMS, "--canaries", "400", "--texts", "0") == 1
    assert "ALARM" in capsys.readouterr().out


def test_invert(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("privacy", "invert", "--trials", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trials"] == 1
    assert found["noise_multiplier"] > 0.5
    assert {one["seen"]: one["recovered"] for one in found["seen"]}["one organization's update, plain"] == 1.0
    assert run("privacy", "invert", "--trials", "1") == 0
    assert "noise multiplier" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "privacy=none"],
        ["audit", "--canaries", "3"],
        ["audit", "--confidence", "2"],
        ["invert", "privacy=none"],
        ["invert", "--trials", "0"],
    ],
)
def test_bad_requests_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("privacy", *words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
