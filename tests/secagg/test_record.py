"""The record of a round proves itself, and the chain of heads does not fork unseen."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import merkle
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.record import RoundRecord, genesis, verify
from cotune.secagg.refused import Refused
from cotune.secagg.suites import CLASSIC
from cotune.secagg.wire import peek

Build = Callable[..., Any]


@pytest.fixture(scope="module")
def played(federation: Build) -> Any:
    fed = federation(4)
    fed.outcome = fed.play({3: 2})
    return fed


def check(fed: Any, message: bytes) -> Any:
    return verify(message, fed.roster, fed.plan().run, genesis(fed.plan().run, fed.roster))


def test_an_honest_record(played: Any) -> None:
    verified = check(played, played.outcome.record)
    assert verified.survivors == (0, 1, 2)
    assert verified.sharers == (0, 1, 2, 3)
    assert verified.ctx2 == played.organizations[0].context
    assert sorted(verified.mask_secrets) == [3]
    assert verified.record.result == merkle.root(played.outcome.words, verified.ctx2, merkle.SUM)


def test_size_at_thirty(federation: Build) -> None:
    fed = federation(30)
    assert len(fed.play().record) < (32_000 if fed.suite is CLASSIC else 512_000)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda r: {"head": b"x" * 32}, "record.head"),
        (lambda r: {"result": b"x" * 32}, "record.head"),
        (lambda r: {"control": (r.control[0] + 1, *r.control[1:])}, "sum.control"),
        (lambda r: {"self_secrets": (b"x" * 32, *r.self_secrets[1:])}, "record.commitment"),
        (lambda r: {"self_secrets": r.self_secrets[1:]}, "record.secrets"),
        (lambda r: {"mask_secrets": (b"x" * 32,)}, "record.mask_key"),
        (lambda r: {"mask_secrets": (b"x" * 31,)}, "record.secrets"),
        (lambda r: {"agreements": (r.agreements[0] + b"x",)}, "record.secrets"),
        (lambda r: {"agreements": ()}, "record.secrets"),
        (lambda r: {"signatures": r.signatures[:2]}, "quorum.too_few"),
        (lambda r: {"headers": r.headers[:2]}, "survivors.too_few"),
        (lambda r: {"share_roots": r.share_roots[:3]}, "survivors.context"),
        (lambda r: {"adverts": r.adverts[:3]}, "shares.context"),
    ],
)
def test_a_false_record(played: Any, change: Callable[[RoundRecord], dict[str, Any]], code: str) -> None:
    record = RoundRecord.decode(peek(played.outcome.record)[0])
    forged = replace(record, **change(record)).sign(played.coordinator_key)
    with pytest.raises(Refused) as no:
        check(played, forged)
    assert no.value.code == code


def test_only_the_coordinator_signs_records(played: Any) -> None:
    record = RoundRecord.decode(peek(played.outcome.record)[0])
    with pytest.raises(Refused) as no:
        check(played, record.sign(played.keys[0]))
    assert no.value.code == "wire.signature"


def test_a_fork_and_another_run(played: Any) -> None:
    run = played.plan().run
    for arguments, code in (((run, b"x" * 32), "record.fork"), ((b"x" * 16, b"x" * 32), "record.run")):
        with pytest.raises(Refused) as no:
            verify(played.outcome.record, played.roster, *arguments)
        assert no.value.code == code


def test_merkle_root_against_a_recursive_reference() -> None:
    words = np.arange(PIECE_WORDS * 5 + 3, dtype=np.uint64)
    context, index = b"c" * 32, 7
    pieces = [words[at : at + PIECE_WORDS].tobytes() for at in range(0, len(words), PIECE_WORDS)]
    prefix = b"\x00" + context + index.to_bytes(2, "big")
    leaves = [hashlib.sha256(prefix + k.to_bytes(8, "big") + piece).digest() for k, piece in enumerate(pieces)]

    def node(part: list[bytes]) -> bytes:
        if len(part) == 1:
            return part[0]
        half = 1 << (len(part) - 1).bit_length() - 1
        return hashlib.sha256(b"\x01" + node(part[:half]) + node(part[half:])).digest()

    expected = hashlib.sha256(b"\x02" + len(words).to_bytes(8, "big") + node(leaves)).digest()
    assert merkle.root(words, context, index) == expected
    assert merkle.root(words, context, 8) != expected
    words[-1] += 1
    assert merkle.root(words, context, index) != expected
