"""A transcript file that was touched anywhere is found out, at the record that was touched and only there."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cotune.secagg.coordinator import Coordinator
from cotune.secagg.record import RoundRecord
from cotune.secagg.refused import Refused
from cotune.secagg.transcript import Examined, encode, examine, read
from cotune.secagg.wire import peek
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Build = Callable[..., Any]
ROUNDS = 4
LATER = 2


def play_on(fed: Any, head: bytes, number: int, attempt: int = 0, gone: dict[int, int] | None = None) -> Any:
    """One more round of a federation, after `head`."""
    fed.coordinator = Coordinator(
        fed.roster, fed.plan(round=number, attempt=attempt, prev_head=head), fed.coordinator_key
    )
    known = {"prev_head": head, "last": (number - 1, 9)}
    fed.expected = lambda **changes: replace(type(fed).expected(fed), **(known | changes))
    return fed.play(gone)


@pytest.fixture(scope="module")
def chain(federation: Build) -> tuple[Any, list[bytes]]:
    """A federation of four and the records of its rounds; in each another member drops out."""
    fed = federation(4)
    records, head = [], fed.plan().prev_head
    for number in range(ROUNDS):
        done = play_on(fed, head, number, gone={number % 4: 2})
        records.append(done.record)
        head = done.head
    return fed, records


def faults(records: list[bytes], fed: Any) -> list[tuple[int, str]]:
    """(position, code) of whatever does not hold."""
    found = enumerate(examine(records, fed.roster))
    return [(position, one.fault.code) for position, one in found if one.fault is not None]


def of_file(path: Path, content: bytes, roster: Any) -> list[Examined] | str:
    """What a file's examination finds, or the code of its refusal."""
    path.write_bytes(content)
    try:
        return list(examine(read(path), roster))
    except Refused as no:
        return no.code


def test_an_honest_transcript_holds(chain: Any, tmp_path: Path) -> None:
    fed, records = chain
    found = of_file(tmp_path / "transcript", encode(records), fed.roster)
    assert [(one.round, one.attempt, one.fault) for one in found] == [(number, 0, None) for number in range(ROUNDS)]
    assert [one.verified.survivors for one in found] == [
        tuple(i for i in range(4) if i != number) for number in range(ROUNDS)
    ]
    assert list(read(tmp_path / "transcript")) == records
    assert of_file(tmp_path / "transcript", encode([]), fed.roster) == []


def test_a_changed_byte_anywhere_is_found(chain: Any, tmp_path: Path) -> None:
    fed, records = chain
    draw, whole = random.Random(1), encode(records[:2])
    heads = [0, 19, 20, 23, 24, 27, len(whole) - 1, len(encode(records[:1])), len(encode(records[:1])) + 3]
    for at in [*heads, *draw.sample(range(len(whole)), 60)]:
        changed = bytearray(whole)
        changed[at] ^= 1 << draw.randrange(8)
        found = of_file(tmp_path / "transcript", bytes(changed), fed.roster)
        assert isinstance(found, str) or any(one.fault for one in found), at


def test_a_changed_byte_is_reported_once_and_at_its_record(chain: Any) -> None:
    """Also where it is in the head that the next record extends, or where nothing can be read any more."""
    fed, records = chain
    draw, tail = random.Random(2), fed.suite.signature_bytes
    for size in (0, 4, 8, 60, tail, tail + 1, tail + 32, *(draw.randrange(len(records[1])) for _ in range(20))):
        changed = bytearray(records[1])
        changed[-1 - size] ^= 1 << draw.randrange(8)
        assert [at for at, _ in faults([records[0], bytes(changed), *records[2:]], fed)] == [1], size


def test_every_truncation_but_at_a_records_end_is_found(chain: Any, tmp_path: Path) -> None:
    fed, records = chain
    whole, ends = encode(records[:2]), [len(encode(records[:count])) for count in range(3)]
    cuts = {end + more for end in ends for more in (-1, 1, 3, 4, 5)} | set(
        random.Random(3).sample(range(len(whole)), 30)
    )
    for cut in sorted(cuts - set(ends)):
        if cut < len(whole):
            code = of_file(tmp_path / "transcript", whole[:cut], fed.roster)
            assert code == ("transcript.format" if cut < ends[0] else "transcript.truncated"), cut
    # Whole records that are missing at the end show against a head that a member holds, and nowhere else.
    assert [one.fault for one in of_file(tmp_path / "transcript", whole[: ends[1]], fed.roster)] == [None]


def test_bytes_after_the_last_record_and_a_giant_length_are_refused(chain: Any, tmp_path: Path) -> None:
    fed, records = chain
    for more in (b"\0", b"\0\0\0\1", b"\xff" * 8):
        found = of_file(tmp_path / "transcript", encode(records) + more, fed.roster)
        assert found in ("transcript.truncated", "transcript.format")


def test_records_reordered_dropped_or_repeated(chain: Any) -> None:
    fed, (r0, r1, r2, r3) = chain
    assert faults([r0, r2, r3], fed) == [(1, "record.fork")]
    assert faults([r1, r2, r3], fed) == [(0, "record.fork")]
    assert faults([r0, r0, r1, r2], fed) == [(1, "record.fork")]
    assert faults([r0, r1, r0, r1], fed)[0] == (2, "record.fork")
    assert faults([r0, r2, r1, r3], fed)[0] == (1, "record.fork")
    for order in ([r1, r0], [r3, r2, r1, r0], [r0, r3, r2, r1]):
        assert faults(order, fed)


def test_a_round_number_that_goes_back(chain: Any) -> None:
    """Members would refuse the plan; a transcript that holds it is not a run's."""
    fed, records = chain
    fed.journals = [type(journal)() for journal in fed.journals]
    again = play_on(fed, RoundRecord.decode(peek(records[-1])[0]).head, number=1)
    assert faults([*records, again.record], fed) == [(ROUNDS, "transcript.order")]


def test_another_roster_and_another_run(chain: Any, federation: Build) -> None:
    fed, records = chain
    other = federation(4)
    assert [code for _, code in faults(records, other)] == ["wire.signature"] * ROUNDS
    elsewhere = replace(fed.roster, epoch=2)
    assert [at for at, _ in faults(records, type("", (), {"roster": elsewhere}))] == [0, 1, 2, 3]
    fed.coordinator = Coordinator(fed.roster, fed.plan(run=b"x" * 16, round=9), fed.coordinator_key)
    fed.expected = lambda **changes: replace(type(fed).expected(fed), run=b"x" * 16, **changes)
    assert faults([*records, fed.play().record], fed) == [(ROUNDS, "record.run")]


FORGERIES: dict[str, tuple[Callable[[RoundRecord, RoundRecord], dict[str, Any]], str, str, int | None]] = {
    "plan": (lambda r, other: {"plan": other.plan}, "record.fork", "plan", None),
    "advert": (lambda r, other: {"adverts": (other.adverts[0], *r.adverts[1:])}, "adverts.context", "adverts", 0),
    "root": (
        lambda r, other: {"share_roots": (*r.share_roots[:2], other.share_roots[2], *r.share_roots[3:])},
        "shares.context",
        "share roots",
        2,
    ),
    "header": (
        lambda r, other: {"headers": (other.headers[0], *r.headers[1:])},
        "survivors.context",
        "upload headers",
        0,
    ),
    "signature": (
        lambda r, other: {"signatures": (other.signatures[0], *r.signatures[1:])},
        "quorum.statement",
        "survivors' signatures",
        0,
    ),
    "secret": (
        lambda r, other: {"self_secrets": (other.self_secrets[0], *r.self_secrets[1:])},
        "record.commitment",
        "revealed secrets",
        0,
    ),
    "control": (lambda r, other: {"control": (r.control[0] + 1, *r.control[1:])}, "sum.control", "control words", None),
    "result": (lambda r, other: {"result": other.result}, "record.head", "head", None),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_record_that_the_coordinator_forged_is_one_fault_with_its_part(chain: Any, name: str) -> None:
    fed, records = chain
    change, code, part, member = FORGERIES[name]
    own, other = (RoundRecord.decode(peek(records[number])[0]) for number in (LATER, LATER + 1))
    forged = replace(own, **change(own, other)).sign(fed.coordinator_key)
    found = [one for one in examine([*records[:LATER], forged, *records[LATER + 1 :]], fed.roster) if one.fault]
    assert len(found) == 1
    assert (found[0].fault.code, found[0].fault.part) == (code, part)
    assert found[0].fault.member == member
    assert found[0].round == (LATER if name != "plan" else LATER + 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_refused_and_never_crash(tmp_path: Path, chain: Any, content: bytes, begun: bool) -> None:
    fed, records = chain
    prefix = encode(records[:1]) if begun else b""
    found = of_file(tmp_path / "transcript", prefix + content, fed.roster)
    if isinstance(found, list):
        assert all(one.fault for one in found[int(begun) :])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=3))
def test_any_records_are_faults_and_never_crash(chain: Any, contents: list[bytes]) -> None:
    fed, records = chain
    assert faults([*records[:1], *contents], fed) != [] or not contents
