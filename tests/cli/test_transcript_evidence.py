"""`cotune transcript evidence`: one line that says whether a file proves a false sum."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cotune.secagg import merkle
from cotune.secagg.evidence import MAX_EVIDENCE, Evidence, evidence_of
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.pieces import piece_of
from cotune.secagg.plan import Plan
from cotune.secagg.record import RoundRecord, next_head, verify
from cotune.secagg.wire import peek

from .conftest import Consortium


def made(consortium: Consortium, changed: int) -> Evidence:
    """Evidence about piece 1 of round 3, after the coordinator changed so many of its words and signed the result."""
    roster, path = consortium.charter.roster(), consortium.run / "rounds" / "0002" / "record.bin"
    record, folder = RoundRecord.decode(peek(path.read_bytes())[0]), consortium.run / "uploads" / "0002"
    plan = Plan.open(record.plan, roster)
    held = verify(path.read_bytes(), roster, plan.run, plan.prev_head)
    total = np.fromfile(folder / "sum.words", dtype="<u8")
    total[PIECE_WORDS : PIECE_WORDS + changed] += 1
    result = merkle.root(total, held.ctx2, merkle.SUM)
    head = next_head(plan.prev_head, held.ctx2, held.survivors, tuple(held.roots.values()), result)
    signed = replace(record, result=result, head=head).sign(consortium.coordinator)
    uploads = {i: piece_of(np.fromfile(folder / f"{i}.words", dtype="<u8"), 1, held.ctx2, i) for i in held.survivors}
    return evidence_of(signed, verify(signed, roster, plan.run, plan.prev_head), 1, uploads, total)


def test_a_false_sum_is_proved(consortium: Consortium, tmp_path: Path, said: Callable) -> None:
    evidence = made(consortium, 1)
    file = tmp_path / "evidence.bin"
    file.write_bytes(evidence.encode())
    code, lines = said("evidence", file)
    assert (code, len(lines)) == (0, 1)
    assert lines[0].startswith("proved: round 3 of run ")
    assert lines[0].endswith("a sum that is false in piece 1")
    code, lines = said("evidence", file, "--json")
    found = json.loads("\n".join(lines))
    assert (code, found["proved"], found["round"], found["piece"]) == (0, True, 3, 1)


def test_what_proves_nothing_is_told(consortium: Consortium, tmp_path: Path, said: Callable) -> None:
    honest, file = made(consortium, 0), tmp_path / "evidence.bin"
    file.write_bytes(honest.encode())
    assert said("evidence", file) == (1, ["not proved: it shows no false sum (evidence.none)"])
    stranger = replace(honest, record=honest.record[:-1] + bytes([honest.record[-1] ^ 1]))
    file.write_bytes(stranger.encode())
    code, lines = said("evidence", file)
    assert (code, lines[0].split(":")[1]) == (1, " record")
    code, lines = said("evidence", file, "--json")
    assert (code, json.loads("\n".join(lines))) == (1, {"proved": False, "code": "wire.signature", "part": "record"})


@pytest.mark.parametrize(
    ("content", "text"), [(b"", "not evidence"), (b"cotune-transcript-1\n", "not evidence"), (None, "No such file")]
)
def test_what_cannot_be_checked_is_one_line(tmp_path: Path, said: Callable, content: bytes | None, text: str) -> None:
    file = tmp_path / "evidence.bin"
    if content is not None:
        file.write_bytes(content)
    code, lines = said("evidence", file)
    assert (code, text in lines[0]) == (2, True)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, said: Callable) -> None:
    file = tmp_path / "evidence.bin"
    file.touch()
    with file.open("r+b") as opened:
        opened.truncate(MAX_EVIDENCE + 1)
    code, lines = said("evidence", file)
    assert (code, "larger than evidence" in lines[0]) == (2, True)
