"""`cotune transcript audit`: the sum is recomputed from the kept uploads, and what is missing or wrong has a name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.secagg import merkle
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.plan import Plan
from cotune.secagg.record import RoundRecord, next_head, verify
from cotune.secagg.wire import peek
from cotune.verify import uploads

Consortium = Any


def test_an_audit_of_every_piece(consortium: Consortium, said: Callable) -> None:
    code, lines = said("audit", consortium.run, "--all")
    assert code == 0
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["0", "2048", "holds"],
        ["1", "2048", "holds"],
        ["2", "58", "holds"],
    ]
    assert lines[-1].startswith("holds: round 3, 3 of 3 pieces")
    code, lines = said("audit", consortium.run, "--round", 2, "--pieces", "2,0", "--json")
    found = json.loads("\n".join(lines))
    assert (code, found["holds"], found["round"], [one["piece"] for one in found["pieces"]]) == (0, True, 2, ["0", "2"])


def test_piece_0_is_always_audited(consortium: Consortium, said: Callable) -> None:
    """It holds the control words; the others are drawn by lot."""
    drawn = set()
    for _ in range(40):
        code, lines = said("audit", consortium.run, "--random", 1)
        pieces = [line.split()[0] for line in lines[1:-1]]
        assert (code, pieces[0], len(pieces)) == (0, "0", 2)
        drawn.add(pieces[1])
    assert drawn == {"1", "2"}
    assert [line.split()[0] for line in said("audit", consortium.run, "--pieces", "2")[1][1:-1]] == ["0", "2"]
    assert len(said("audit", consortium.run)[1]) == 5  # three pieces are fewer than the lot


@pytest.mark.parametrize(
    ("name", "expected"),
    [("0.words", "the upload kept for alder is not the one that alder signed"), ("sum.words", "the sum that it kept")],
)
def test_a_tampered_upload_and_a_tampered_sum(copied: Path, said: Callable, name: str, expected: str) -> None:
    file = copied / "uploads" / "0002" / name
    content = bytearray(file.read_bytes())
    content[8 * PIECE_WORDS + 11] ^= 1
    file.write_bytes(content)
    code, lines = said("audit", copied, "--all")
    assert code == 1
    assert expected in lines[-1]
    assert said("audit", copied, "--round", 2)[0] == 0


def test_a_false_sum_in_the_record_is_found_in_its_piece(consortium: Consortium, copied: Path, said: Callable) -> None:
    """The coordinator hands out another sum than the uploads', and records its hash and head as if it were true."""
    folder = copied / "uploads" / "0002"
    words = np.fromfile(folder / "sum.words", dtype="<u8")
    words[PIECE_WORDS + 3] += 1
    words.tofile(folder / "sum.words")
    path = copied / "rounds" / "0002" / "record.bin"
    record = RoundRecord.decode(peek(path.read_bytes())[0])
    plan = Plan.open(record.plan, consortium.charter.roster())
    held = verify(path.read_bytes(), consortium.charter.roster(), plan.run, plan.prev_head)
    result = merkle.root(words, held.ctx2, merkle.SUM)
    head = next_head(plan.prev_head, held.ctx2, held.survivors, tuple(held.roots.values()), result)
    path.write_bytes(replace(record, result=result, head=head).sign(consortium.coordinator))
    assert said("verify", copied)[0] == 0
    code, lines = said("audit", copied, "--all")
    assert code == 1
    assert [line.split()[2] for line in lines[1:4]] == ["holds", "does", "holds"]
    assert lines[-1].startswith(
        "does not hold: round 3, piece 1: the coordinator: the sum in the record is not the sum"
    )


def test_an_upload_that_is_gone_or_cut_or_a_record_that_is_false(
    consortium: Consortium, copied: Path, said: Callable
) -> None:
    kept = copied / "uploads" / "0002"
    (kept / "0.words").write_bytes((kept / "0.words").read_bytes()[:-8])
    assert "alder" in said("audit", copied)[1][-1]
    (kept / "1.words").write_bytes(b"odd")
    (kept / "0.words").unlink()
    code, lines = said("audit", copied)
    assert (code, "does not have the upload of alder" in lines[-1]) == (1, True)
    forged = consortium.forge(2, lambda r: {"result": b"x" * 32})
    (copied / "rounds" / "0002" / "record.bin").write_bytes(forged)
    code, lines = said("audit", copied)
    assert code == 1
    assert "round 3, coordinator, head" in lines[-1]


@pytest.mark.parametrize("gone", ["uploads/0002", "uploads"])
def test_uploads_that_are_gone_within_the_window_are_a_fault(copied: Path, said: Callable, gone: str) -> None:
    shutil.rmtree(copied / gone)
    line = "does not hold: round 3: the coordinator does not have its uploads any more"
    for words in ((), ("--all",), ("--round", 3)):
        code, lines = said("audit", copied, *words)
        assert (code, lines[-1]) == (1, line), words
    code, lines = said("audit", copied, "--json")
    found = json.loads("\n".join(lines))
    assert (code, found["holds"], found["pieces"], found["faults"]) == (1, False, [], [line[15:]])
    assert said("audit", copied, "--round", 2)[0] == (0 if gone == "uploads/0002" else 1)
    assert said("audit", copied, "--round", 1)[0] == 2  # nobody promised to keep them for so long


def test_a_round_that_leaves_the_window_during_its_audit_is_no_fault(
    consortium: Consortium, copied: Path, said: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator commits two more rounds between the records that were read and the uploads."""
    real = uploads.kept_rounds
    for number in (1, 2):
        (copied / "rounds" / f"000{number}").rename(copied / f"000{number}")

    def meanwhile(path: Path) -> list[int]:
        for number in (1, 2):
            (copied / f"000{number}").rename(copied / "rounds" / f"000{number}")
        return real(path)

    monkeypatch.setattr(uploads, "kept_rounds", meanwhile)
    code, lines = said("audit", copied)
    assert (code, "round 1: the run went on" in lines[-1]) == (2, True)
