"""A false sum: the server opens the right sum and announces, and records, another one.

Attacker: the coordinator. Gain without the audit: it steers the model, and nobody can tell, since nobody else adds.
Stopped by `audit_piece`: the revealed secrets are in the record, so whoever asks for the kept uploads recomputes any
piece and finds that it is not the recorded one (`audit.result`), that an upload is not the one that was signed
(`audit.upload`), or that the sum handed out is not the recorded one (`audit.sum`).
Source: the public-audit idea of Haber, Stornetta 1991 on linked records; RFC 6962 on Merkle proofs.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import merkle
from cotune.secagg.audit import audit_piece
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.pieces import Piece, piece_of
from cotune.secagg.record import RoundRecord, next_head, verify
from cotune.secagg.wire import peek

Build = Callable[..., Any]


@pytest.fixture(scope="module")
def kept(federation: Build, witness: Build) -> SimpleNamespace:
    """A round of two pieces whose uploads were kept."""
    fed = federation(3, PIECE_WORDS * 3 + 100)
    seen = witness(fed)
    plan = fed.plan()
    verified = verify(seen.outcome.record, fed.roster, plan.run, plan.prev_head)
    uploads = {i: words for i, (_, words) in seen.upload.items()}
    return SimpleNamespace(fed=fed, seen=seen, verified=verified, uploads=uploads, total=seen.outcome.words)


def cut(kept: Any, number: int, verified: Any = None) -> tuple[dict[int, Piece], Piece]:
    ctx2 = (verified or kept.verified).ctx2
    uploads = {i: piece_of(words, number, ctx2, i) for i, words in kept.uploads.items()}
    return uploads, piece_of(kept.total, number, ctx2, merkle.SUM)


def test_an_honest_sum_passes(kept: Any) -> None:
    for number in (0, 1):
        assert np.array_equal(audit_piece(kept.verified, number, *cut(kept, number)), cut(kept, number)[1].words)


def steered(kept: Any) -> tuple[Any, Any]:
    """The record with the result, and the head, of a sum that the server made up; and that sum."""
    total = kept.total.copy()
    total[-1] += np.uint64(1)
    record = RoundRecord.decode(peek(kept.seen.outcome.record)[0])
    result = merkle.root(total, kept.verified.ctx2, merkle.SUM)
    roots = tuple(kept.verified.roots.values())
    head = next_head(kept.fed.plan().prev_head, kept.verified.ctx2, kept.verified.survivors, roots, result)
    forged = replace(record, result=result, head=head).sign(kept.fed.coordinator_key)
    return verify(forged, kept.fed.roster, kept.fed.plan().run, kept.fed.plan().prev_head), total


def test_the_record_of_a_false_sum_holds_and_its_audit_does_not(kept: Any, refusal: Build) -> None:
    """Alone, the record cannot know. The piece that was changed is found, the other one is right."""
    verified, total = steered(kept)
    for number in (0, 1):
        uploads, _ = cut(kept, number, verified)
        told = piece_of(total, number, verified.ctx2, merkle.SUM)
        if number:
            assert refusal(audit_piece, verified, number, uploads, told) == "audit.result"
        else:
            audit_piece(verified, number, uploads, told)


def test_another_sum_is_handed_out_than_recorded(kept: Any, refusal: Build) -> None:
    uploads, honest = cut(kept, 1)
    words = honest.words.copy()
    words[0] ^= np.uint64(1)
    assert refusal(audit_piece, kept.verified, 1, uploads, replace(honest, words=words)) == "audit.sum"
    assert refusal(audit_piece, kept.verified, 1, uploads, replace(honest, path=())) == "audit.sum"
    assert refusal(audit_piece, kept.verified, 1, uploads, replace(honest, words=honest.words[:-1])) == "audit.sum"


def test_another_upload_is_handed_out_than_signed(kept: Any, refusal: Build) -> None:
    uploads, honest = cut(kept, 0)
    changed = uploads[1].words.copy()
    changed[9] += np.uint64(1)
    for bad in (replace(uploads[1], words=changed), uploads[2], replace(uploads[1], path=uploads[1].path * 2)):
        assert refusal(audit_piece, kept.verified, 0, {**uploads, 1: bad}, honest) == "audit.upload"
    assert refusal(audit_piece, kept.verified, 0, {0: uploads[0], 2: uploads[2]}, honest) == "audit.missing"


def test_pieces_that_there_are_not(kept: Any, refusal: Build) -> None:
    for number in (-1, 2):
        assert refusal(audit_piece, kept.verified, number, *cut(kept, 0)) == "audit.piece"


def test_the_audit_opens_no_single_upload(kept: Any, hostile: Build, refusal: Build) -> None:
    """What it is given takes the masks off the sum; on one upload the pair masks remain."""
    secrets = kept.verified.self_secrets
    words = kept.uploads[0]
    expected = "share.offer" if kept.fed.suite.kem_bytes else "sum.control"
    assert refusal(hostile(kept.fed).steal, 0, words, secrets[0], secrets[1]) == expected
