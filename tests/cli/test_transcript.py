"""`cotune transcript`: whatever was touched in a run is found, in one line, with the round and who is to blame."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.charter import charter as charters
from cotune.cli.app import main
from cotune.client.home import Home
from cotune.secagg.masking import CHUNK_WORDS
from cotune.secagg.plan import Plan
from cotune.secagg.record import RoundRecord, genesis
from cotune.secagg.transcript import encode
from cotune.secagg.wire import peek
from cotune.server.run_directory import RunDirectory

NAMES = ("alder", "birch", "cedar", "dogwood")
ROUNDS = 3


Consortium = Any


class Forgetful:
    """The journal of a node that was restored from an old copy: it may sign another history."""

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None:
        pass

    def survived(self, run: bytes, round: int) -> bool:
        return False


@pytest.fixture
def run(consortium: Consortium, tmp_path: Path) -> Path:
    """A copy of the run directory, to be tampered with."""
    return Path(shutil.copytree(consortium.run, tmp_path / "run"))


@pytest.fixture
def said(consortium: Consortium, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    """said("verify", FILE, ...): the exit code, and what was printed, by line; the charter is given."""

    def call(verb: str, *words: object, charter: Path | None = None) -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as ended:
            main(["transcript", verb, *map(str, words), "--charter", str(charter or consortium.file)])
        shown = capsys.readouterr()
        if ended.value.code == 2:
            assert len(shown.err.splitlines()) == 1
        return int(ended.value.code or 0), (shown.out + shown.err).splitlines()

    return call


def forge(consortium: Consortium, number: int, change: Callable[[RoundRecord], dict[str, Any]], key: Any) -> bytes:
    """The record of a round, changed and signed again."""
    path = consortium.run / "rounds" / f"{number:04d}" / "record.bin"
    record = RoundRecord.decode(peek(path.read_bytes())[0])
    return replace(record, **change(record)).sign(key)


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
    consortium: Consortium, run: Path, said: Callable, change: Callable, expected: str
) -> None:
    forged = forge(consortium, 1, change, consortium.coordinator)
    (run / "rounds" / "0001" / "record.bin").write_bytes(forged)
    code, lines = said("verify", run)
    assert code == 1
    assert lines[-1].startswith(f"does not hold: {expected}: ")
    assert [line.split()[0] for line in lines if "does not hold: " in line[4:]] == ["2"]
    code, lines = said("verify", run, "--json")
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
    other = scratch.play(2, head, [Forgetful()] * 4, gone=3)
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
    home = Home(Path(shutil.copytree(consortium.homes[0].path, tmp_path / "home")))
    chain, chains = home.chain(), home.path / "chains.json"
    chains.unlink()
    home.set_chain(replace(chain, run="ab" * 16))
    code, lines = said("verify", consortium.run, "--home", home.path)
    assert (code, "takes part in run abababababab" in lines[-1]) == (1, True)
    chains.unlink()
    assert "no run yet" in said("verify", consortium.run, "--home", home.path)[1][0]
    chains.write_text("{")
    assert "chains.json cannot be read" in said("verify", consortium.run, "--home", home.path)[1][0]
    charters.save(consortium.charter.model_copy(update={"epoch": 2}), home.charter)
    code, lines = said("verify", consortium.run, "--home", home.path)
    assert (code, "signed another charter" in lines[0]) == (2, True)


def test_an_audit_of_every_chunk(consortium: Consortium, said: Callable) -> None:
    code, lines = said("audit", consortium.run, "--all")
    assert code == 0
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["0", "32768", "holds"],
        ["1", "32768", "holds"],
        ["2", "58", "holds"],
    ]
    assert lines[-1].startswith("holds: round 3, 3 of 3 chunks")
    code, lines = said("audit", consortium.run, "--round", 2, "--chunks", "2,0", "--json")
    found = json.loads("\n".join(lines))
    assert (code, found["holds"], found["round"], [one["chunk"] for one in found["chunks"]]) == (0, True, 2, ["0", "2"])


def test_chunk_0_is_always_audited(consortium: Consortium, said: Callable) -> None:
    """It holds the control words; the others are drawn by lot."""
    drawn = set()
    for _ in range(40):
        code, lines = said("audit", consortium.run, "--random", 1)
        chunks = [line.split()[0] for line in lines[1:-1]]
        assert (code, chunks[0], len(chunks)) == (0, "0", 2)
        drawn.add(chunks[1])
    assert drawn == {"1", "2"}
    assert [line.split()[0] for line in said("audit", consortium.run, "--chunks", "2")[1][1:-1]] == ["0", "2"]
    assert len(said("audit", consortium.run)[1]) == 5  # three chunks are fewer than the lot


@pytest.mark.parametrize(
    ("name", "expected"),
    [("0.words", "the upload kept for alder is not the one that alder signed"), ("sum.words", "the sum that it kept")],
)
def test_a_tampered_upload_and_a_tampered_sum(run: Path, said: Callable, name: str, expected: str) -> None:
    file = run / "uploads" / "0002" / name
    content = bytearray(file.read_bytes())
    content[8 * CHUNK_WORDS + 11] ^= 1
    file.write_bytes(content)
    code, lines = said("audit", run, "--all")
    assert code == 1
    assert expected in lines[-1]
    assert said("audit", run, "--round", 2)[0] == 0


def test_a_false_sum_in_the_record_is_found_in_its_chunk(consortium: Consortium, run: Path, said: Callable) -> None:
    """The coordinator hands out another sum than the uploads', and records its hash and head as if it were true."""
    from cotune.secagg import merkle
    from cotune.secagg.record import next_head, verify

    folder = run / "uploads" / "0002"
    words = np.fromfile(folder / "sum.words", dtype="<u8")
    words[CHUNK_WORDS + 3] += 1
    words.tofile(folder / "sum.words")
    path = run / "rounds" / "0002" / "record.bin"
    record = RoundRecord.decode(peek(path.read_bytes())[0])
    plan = Plan.open(record.plan, consortium.charter.roster())
    held = verify(path.read_bytes(), consortium.charter.roster(), plan.run, plan.prev_head)
    result = merkle.root(words, held.ctx2, merkle.SUM)
    head = next_head(plan.prev_head, held.ctx2, held.survivors, tuple(held.roots.values()), result)
    path.write_bytes(replace(record, result=result, head=head).sign(consortium.coordinator))
    assert said("verify", run)[0] == 0
    code, lines = said("audit", run, "--all")
    assert code == 1
    assert [line.split()[2] for line in lines[1:4]] == ["holds", "does", "holds"]
    assert lines[-1].startswith(
        "does not hold: round 3, chunk 1: the coordinator: the sum in the record is not the sum"
    )


def test_an_upload_that_is_gone_or_cut_or_a_record_that_is_false(
    consortium: Consortium, run: Path, said: Callable
) -> None:
    kept = run / "uploads" / "0002"
    (kept / "0.words").write_bytes((kept / "0.words").read_bytes()[:-8])
    assert "alder" in said("audit", run)[1][-1]
    (kept / "1.words").write_bytes(b"odd")
    (kept / "0.words").unlink()
    code, lines = said("audit", run)
    assert (code, "does not have the upload of alder" in lines[-1]) == (1, True)
    forged = forge(consortium, 2, lambda r: {"result": b"x" * 32}, consortium.coordinator)
    (run / "rounds" / "0002" / "record.bin").write_bytes(forged)
    code, lines = said("audit", run)
    assert code == 1
    assert "round 3, coordinator, head" in lines[-1]


def test_bad_input_is_one_line(consortium: Consortium, run: Path, tmp_path: Path, said: Callable) -> None:
    nowhere, text = tmp_path / "nowhere", tmp_path / "text"
    text.write_text("a text\n")
    stranger = tmp_path / "stranger.yaml"
    charters.save(consortium.charter.model_copy(update={"epoch": 2}), stranger)
    for words, part in (
        (("verify", nowhere), "No such file"),
        (("verify", text), "not a transcript"),
        (("verify", tmp_path), "not a run directory"),
        (("verify", run, "--home", nowhere), "no such node"),
        (("audit", nowhere), "No such file"),
        (("audit", consortium.root / "transcript.bin"), "a transcript holds no uploads"),
        (("audit", run, "--round", 1), "not kept: choose among 2, 3"),
        (("audit", run, "--round", 9), "it has no record"),
        (("audit", run, "--chunks", "3"), "choose from 0 to 2"),
        (("audit", run, "--chunks", "1,x"), "not a list"),
        (("audit", run, "--chunks", ""), "not a list"),
        (("audit", run, "--all", "--random", "2"), "exclude each other"),
        (("audit", run, "--random", "0"), "--random"),
    ):
        code, lines = said(*words)
        assert (code, len(lines)) == (2, 1), words
        assert part in lines[0], words
    assert "another charter" in said("verify", run, charter=stranger)[1][0]


@pytest.mark.parametrize("gone", ["uploads/0002", "uploads"])
def test_uploads_that_are_gone_within_the_window_are_a_fault(run: Path, said: Callable, gone: str) -> None:
    shutil.rmtree(run / gone)
    line = "does not hold: round 3: the coordinator does not have its uploads any more"
    for words in ((), ("--all",), ("--round", 3)):
        code, lines = said("audit", run, *words)
        assert (code, lines[-1]) == (1, line), words
    code, lines = said("audit", run, "--json")
    found = json.loads("\n".join(lines))
    assert (code, found["holds"], found["chunks"], found["faults"]) == (1, False, [], [line[15:]])
    assert said("audit", run, "--round", 2)[0] == (0 if gone == "uploads/0002" else 1)
    assert said("audit", run, "--round", 1)[0] == 2  # nobody promised to keep them for so long


def test_a_charter_that_keeps_nothing_promises_nothing(consortium: Consortium, tmp_path: Path, said: Callable) -> None:
    secagg = consortium.charter.secagg.model_copy(update={"audit_rounds": 0})
    charter = consortium.charter.model_copy(update={"secagg": secagg})
    charters.save(charter, tmp_path / "charter.yaml")
    scratch = replace(consortium, root=tmp_path, charter=charter)
    head = genesis(RunDirectory(scratch.run, charter.digest()).run_id, charter.roster())
    scratch.commit(0, scratch.play(0, head, [Forgetful()] * 4, gone=3))
    shutil.rmtree(scratch.run / "uploads")
    code, lines = said("audit", scratch.run, charter=scratch.file)
    assert (code, "audit_rounds is 0" in lines[-1]) == (2, True)


def test_a_round_that_leaves_the_window_during_its_audit_is_no_fault(
    consortium: Consortium, run: Path, said: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator commits two more rounds between the records that were read and the uploads."""
    from cotune.server import audit_window

    real = audit_window.kept_rounds
    for number in (1, 2):
        (run / "rounds" / f"000{number}").rename(run / f"000{number}")

    def meanwhile(path: Path) -> list[int]:
        for number in (1, 2):
            (run / f"000{number}").rename(run / "rounds" / f"000{number}")
        return real(path)

    monkeypatch.setattr(audit_window, "kept_rounds", meanwhile)
    code, lines = said("audit", run)
    assert (code, "round 1: the run went on" in lines[-1]) == (2, True)


def test_nothing_is_written(consortium: Consortium, said: Callable) -> None:
    def state() -> dict[Path, tuple[int, bytes]]:
        files = (path for path in consortium.root.rglob("*") if path.is_file())
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    said("verify", consortium.run, "--home", consortium.homes[1].path)
    said("audit", consortium.run, "--all")
    assert state() == before
