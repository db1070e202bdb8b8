"""`cotune transcript verify`: whatever was touched is found, in one line, with the round and who is to blame."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cotune.charter import charter as charters
from cotune.client.home import NodeHome
from cotune.secagg.record import RoundRecord
from cotune.secagg.transcript import encode
from cotune.secagg.wire import peek
from cotune.server.run_directory import RunDirectory

NAMES = ("alder", "birch", "cedar", "dogwood")
ROUNDS = 3
Consortium = Any


Consortium = Any


def test_an_honest_run_holds(consortium: Consortium, said: Callable) -> None:
    for source in (consortium.root / "transcript.bin", consortium.run):
        code, lines = said("verify", source)
        assert code == 0
        rows = [line.split() for line in lines]
        assert [row[:6] for row in rows[1:4]] == [
            [str(number + 1), "1", "4", "4", "3", NAMES[number]] for number in range(ROUNDS)
        ]
        assert lines[-1].startswith("holds: 3 rounds")
    for home in consortium.homes:
        code, lines = said("verify", consortium.run, "--home", home.path)
        assert code == 0
        assert "head is that of round 3 of 3" in lines[-2]


def test_json_says_the_same(consortium: Consortium, said: Callable) -> None:
    code, lines = said("verify", consortium.run, "--json", "--home", consortium.homes[0].path)
    found = json.loads("\n".join(lines))
    assert (code, found["holds"], found["home"]["holds"], found["fault"]) == (0, True, True, None)
    assert [one["dropped"] for one in found["rounds"]] == [["alder"], ["birch"], ["cedar"]]
    assert found["rounds"][0]["advertised"] == list(NAMES)


def flipped(message: bytes) -> bytes:
    """With another last byte, whatever it was: that of a signature is often zero."""
    return message[:-1] + bytes([message[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: {"adverts": (r.adverts[0], flipped(r.adverts[1]), *r.adverts[2:])}, "round 2, birch, adverts"),
        (lambda r: {"headers": r.headers[:2]}, "round 2, coordinator, upload headers"),
        (lambda r: {"self_secrets": (b"x" * 32, *r.self_secrets[1:])}, "round 2, alder, revealed secrets"),
        (lambda r: {"result": b"x" * 32}, "round 2, coordinator, head"),
    ],
)
def test_a_false_record_is_named_with_round_member_and_part(
    consortium: Consortium, copied: Path, said: Callable, change: Callable, expected: str
) -> None:
    forged = consortium.forge(1, change)
    (copied / "rounds" / "0001" / "record.bin").write_bytes(forged)
    code, lines = said("verify", copied)
    assert code == 1
    assert lines[-1].startswith(f"does not hold: {expected}: ")
    assert [line.split()[0] for line in lines if "does not hold: " in line[4:]] == ["2"]
    code, lines = said("verify", copied, "--json")
    assert (code, json.loads("\n".join(lines))["fault"]["where"]) == (1, "round 2")


def test_a_byte_of_the_file_and_its_end(consortium: Consortium, tmp_path: Path, said: Callable) -> None:
    whole = (consortium.root / "transcript.bin").read_bytes()
    file = tmp_path / "transcript.bin"
    for at in (30, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        code, lines = said("verify", file)
        assert (code, "does not hold" in lines[-1]) == (1, True)
    file.write_bytes(whole[:-1])
    code, lines = said("verify", file)
    assert code == 1
    assert lines[-1].startswith("does not hold: record 3 of the file, file: ")


@pytest.mark.parametrize(
    "change",
    [
        lambda charter: {"privacy": replace(charter.privacy, epsilon=1.0)},
        lambda charter: {"rounds": charter.rounds + 1},
        lambda charter: {"not_after": "2098-01-01T00:00:00Z"},
        lambda charter: {"model": charter.model.model_copy(update={"base_digest": "cd" * 32})},
    ],
)
def test_one_value_of_the_charter_changed(
    consortium: Consortium, tmp_path: Path, said: Callable, change: Callable[[Any], dict[str, Any]]
) -> None:
    """The keys are the charter's, and one of its terms is not: the members agreed on another charter."""
    other = tmp_path / "charter.yaml"
    charters.save(consortium.charter.model_copy(update=change(consortium.charter)), other)
    code, lines = said("verify", consortium.root / "transcript.bin", charter=other)
    assert code == 1
    assert lines[-1].startswith("does not hold: round 1, coordinator, plan: a round on other terms")


def test_a_fork_shows_against_a_home(consortium: Consortium, tmp_path: Path, said: Callable) -> None:
    """The members signed round 3 without cedar; a coordinator shows a round 3 without dogwood, which they never saw."""
    records = [(consortium.run / "rounds" / f"{n:04d}" / "record.bin").read_bytes() for n in range(ROUNDS)]
    head = RoundRecord.decode(peek(records[1])[0]).head
    scratch = replace(consortium, root=tmp_path)
    shutil.copytree(consortium.run, scratch.run)
    other = scratch.play(2, head, gone=3)
    file = tmp_path / "transcript.bin"
    file.write_bytes(encode([*records[:2], other.record]))
    assert said("verify", file)[0] == 0
    code, lines = said("verify", file, "--home", consortium.homes[0].path)
    assert code == 1
    assert lines[-1].startswith("does not hold: round 3, coordinator, home: this node signed for another outcome")
    # Cedar dropped out and signed nothing in round 3: its head alone shows it.
    code, lines = said("verify", file, "--home", consortium.homes[2].path)
    assert code == 1
    assert "round 3, coordinator, home: this node's head is not in it" in lines[-1]


def test_a_transcript_that_ends_before_what_the_home_saw(
    consortium: Consortium, tmp_path: Path, said: Callable
) -> None:
    records = RunDirectory(consortium.run, consortium.charter.digest()).records(-1)
    file = tmp_path / "transcript.bin"
    file.write_bytes(encode(records[:2]))
    code, lines = said("verify", file, "--home", consortium.homes[0].path)
    assert code == 1
    assert "ends after round 2, the node took part in round 3" in lines[-1]


def test_a_home_of_another_run_another_charter_or_none(consortium: Consortium, tmp_path: Path, said: Callable) -> None:
    home = NodeHome(Path(shutil.copytree(consortium.homes[0].path, tmp_path / "home")))
    chain, chains = home.chain(), home.path / "chains.json"
    chains.unlink()
    home.set_chain(replace(chain, run="ab" * 16))
    code, lines = said("verify", consortium.run, "--home", home.path)
    assert (code, "takes part in run abababababab" in lines[-1]) == (1, True)
    chains.unlink()
    assert "no run yet" in said("verify", consortium.run, "--home", home.path)[1][0]
    chains.write_text("{")
    chains.chmod(0o600)
    assert "chains.json cannot be read" in said("verify", consortium.run, "--home", home.path)[1][0]
    charters.save(consortium.charter.model_copy(update={"epoch": 2}), home.charter)
    code, lines = said("verify", consortium.run, "--home", home.path)
    assert (code, "signed another charter" in lines[0]) == (2, True)


def test_bad_input_is_one_line(consortium: Consortium, copied: Path, tmp_path: Path, said: Callable) -> None:
    nowhere, text = tmp_path / "nowhere", tmp_path / "text"
    text.write_text("a text\n")
    stranger = tmp_path / "stranger.yaml"
    charters.save(consortium.charter.model_copy(update={"epoch": 2}), stranger)
    for words, part in (
        (("verify", nowhere), "No such file"),
        (("verify", text), "not a transcript"),
        (("verify", tmp_path), "not a run directory"),
        (("verify", copied, "--home", nowhere), "no such node"),
        (("audit", nowhere), "No such file"),
        (("audit", consortium.root / "transcript.bin"), "a transcript holds no uploads"),
        (("audit", copied, "--round", 1), "not kept: choose among 2, 3"),
        (("audit", copied, "--round", 9), "it has no record"),
        (("audit", copied, "--pieces", "3"), "choose from 0 to 2"),
        (("audit", copied, "--pieces", "1,x"), "not a list"),
        (("audit", copied, "--pieces", ""), "not a list"),
        (("audit", copied, "--all", "--random", "2"), "exclude each other"),
        (("audit", copied, "--random", "0"), "--random"),
    ):
        code, lines = said(*words)
        assert (code, len(lines)) == (2, 1), words
        assert part in lines[0], words
    assert "another charter" in said("verify", copied, charter=stranger)[1][0]


def test_nothing_is_written(consortium: Consortium, said: Callable) -> None:
    def state() -> dict[Path, tuple[int, bytes]]:
        files = (path for path in consortium.root.rglob("*") if path.is_file())
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    said("verify", consortium.run, "--home", consortium.homes[1].path)
    said("audit", consortium.run, "--all")
    assert state() == before
