"""Evidence of a false sum convicts the coordinator who signed one, and nobody can make it of an honest round."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import merkle
from cotune.secagg.evidence import MAX_EVIDENCE, Evidence, evidence_of, false_sum
from cotune.secagg.identity import new_identity
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.pieces import Piece, piece_of
from cotune.secagg.record import RoundRecord, next_head, verify
from cotune.secagg.refused import Refused
from cotune.secagg.wire import peek
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Build = Callable[..., Any]
Refusal = Callable[..., Refused]


class Round:
    """A round of three pieces whose uploads were kept, and records of sums that its coordinator might sign."""

    def __init__(self, fed: Any) -> None:
        self.fed = fed
        inboxes, self.uploads = fed.share(), {}
        for i in range(fed.n):
            header, self.uploads[i] = fed.organizations[i].mask(inboxes[i], fed.vectors[i])
            assert fed.coordinator.add_upload(i, header, self.uploads[i])
        bundle = fed.coordinator.close_uploads()
        for i, organization in fed.organizations.items():
            assert fed.coordinator.add_survival(i, organization.survive(bundle))
        quorum = fed.coordinator.close_survival()
        for i, organization in fed.organizations.items():
            assert fed.coordinator.add_reveal(i, organization.unmask(quorum))
        outcome, self.plan = fed.coordinator.result(), fed.plan()
        self.total, self.record = outcome.words, outcome.record
        self.verified = verify(self.record, fed.roster, self.plan.run, self.plan.prev_head)

    def signed(self, total: NDArray[np.uint64], **changes: Any) -> bytes:
        """The record that the coordinator signs over a sum."""
        true = self.verified
        result = merkle.root(total, true.ctx2, merkle.SUM)
        head = next_head(self.plan.prev_head, true.ctx2, true.survivors, tuple(true.roots.values()), result)
        record = RoundRecord.decode(peek(self.record)[0])
        return replace(record, result=result, head=head, **changes).sign(self.fed.coordinator_key)

    def pieces(self, number: int, uploads: Mapping[int, NDArray[np.uint64]] | None = None) -> dict[int, Piece]:
        kept = self.uploads if uploads is None else uploads
        return {i: piece_of(words, number, self.verified.ctx2, i) for i, words in kept.items()}

    def evidence(self, record: bytes, number: int, total: NDArray[np.uint64]) -> Evidence:
        verified = verify(record, self.fed.roster, self.plan.run, self.plan.prev_head)
        return evidence_of(record, verified, number, self.pieces(number), total)

    def altered(self, at: int, by: int = 1) -> NDArray[np.uint64]:
        words = self.total.copy()
        words[at] += np.uint64(by)
        return words


@pytest.fixture(scope="module")
def kept(federation: Build) -> Round:
    return Round(federation(3, 3 * (2 * PIECE_WORDS + 50)))


@pytest.mark.parametrize("at", [11, PIECE_WORDS + 5, 2 * PIECE_WORDS + 9])
def test_a_false_sum_convicts_the_coordinator(kept: Round, at: int) -> None:
    lie = kept.altered(at)
    evidence = kept.evidence(kept.signed(lie), at // PIECE_WORDS, lie)
    verified = false_sum(evidence.encode(), kept.fed.roster)
    assert verified.plan == kept.plan


@pytest.mark.parametrize(("at", "by"), [(2, 1), (PIECE_WORDS + 5, 1 << 63)])
def test_a_sum_that_can_be_none_needs_no_uploads(kept: Round, at: int, by: int) -> None:
    lie = kept.altered(at, by)
    evidence = replace(kept.evidence(kept.signed(lie), at // PIECE_WORDS, lie), uploads={})
    false_sum(evidence.encode(), kept.fed.roster)


def test_masks_that_the_recorded_secrets_leave_on_convict_the_coordinator(federation: Build) -> None:
    """In suite hybrid a record may say anything of what a dropped member had agreed upon; a sum shows what is true."""
    fed = federation(4, 3 * PIECE_WORDS)
    inboxes, uploads = fed.share(), {}
    for i in range(3):
        header, uploads[i] = fed.organizations[i].mask(inboxes[i], fed.vectors[i])
        assert fed.coordinator.add_upload(i, header, uploads[i])
    bundle = fed.coordinator.close_uploads()
    assert all(fed.coordinator.add_survival(i, fed.organizations[i].survive(bundle)) for i in range(3))
    quorum = fed.coordinator.close_survival()
    assert all(fed.coordinator.add_reveal(i, fed.organizations[i].unmask(quorum)) for i in range(3))
    outcome = fed.coordinator.result()
    record = RoundRecord.decode(peek(outcome.record)[0])
    if not record.agreements[0]:
        return
    false = replace(record, agreements=(bytes(len(record.agreements[0])),)).sign(fed.coordinator_key)
    verified = verify(false, fed.roster, fed.plan().run, fed.plan().prev_head)
    pieces = {i: piece_of(words, 0, verified.ctx2, i) for i, words in uploads.items()}
    false_sum(evidence_of(false, verified, 0, pieces, outcome.words).encode(), fed.roster)


@pytest.mark.parametrize("number", range(3))
def test_nothing_is_proved_about_an_honest_sum(kept: Round, refusal_of: Refusal, number: int) -> None:
    evidence = kept.evidence(kept.record, number, kept.total)
    assert refusal_of(false_sum, evidence.encode(), kept.fed.roster).code == "evidence.none"


def test_nothing_is_proved_by_pieces_that_nobody_signed(kept: Round, refusal_of: Refusal) -> None:
    """Whoever hands in evidence may have changed it: only what lies under a signed root counts."""
    honest, lie = kept.evidence(kept.record, 1, kept.total), kept.altered(PIECE_WORDS + 5)
    other_upload = {**kept.uploads, 1: kept.altered(PIECE_WORDS + 3)}
    false = [
        replace(honest, result=piece_of(lie, 1, kept.verified.ctx2, merkle.SUM)),
        replace(honest, uploads=kept.pieces(1, other_upload)),
        replace(honest, uploads={i: piece for i, piece in honest.uploads.items() if i != 2}),
        replace(honest, uploads={}),
        replace(honest, number=0),
        replace(honest, number=2**32 - 1),
        replace(honest, number=3, result=Piece(kept.total[:0], ())),
    ]
    for evidence in false:
        assert refusal_of(false_sum, evidence.encode(), kept.fed.roster).code == "evidence.none"


def test_a_record_of_another_coordinator_is_none(kept: Round, refusal_of: Refusal) -> None:
    lie = kept.altered(PIECE_WORDS + 5)
    evidence = kept.evidence(kept.signed(lie), 1, lie)
    stranger = RoundRecord.decode(peek(evidence.record)[0]).sign(new_identity(kept.fed.suite))
    no = refusal_of(false_sum, replace(evidence, record=stranger).encode(), kept.fed.roster)
    assert (no.code, no.part) == ("wire.signature", "record")


def test_the_file_has_one_form(kept: Round, refusal_of: Refusal) -> None:
    raw = kept.evidence(kept.record, 1, kept.total).encode()
    assert Evidence.decode(raw).encode() == raw
    assert refusal_of(Evidence.decode, b"cotune-transcript-1\n" + raw).code == "evidence.format"
    assert refusal_of(Evidence.decode, b"").code == "evidence.format"
    assert refusal_of(Evidence.decode, raw + b"\0").code == "wire.trailing"
    assert refusal_of(Evidence.decode, bytes(MAX_EVIDENCE + 1)).code == "wire.oversize"
    odd = replace(kept.evidence(kept.record, 1, kept.total), result=Piece(np.zeros(3, np.uint8), ()))  # type: ignore[arg-type]
    assert refusal_of(Evidence.decode, odd.encode()).code == "wire.piece"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_bent_evidence_proves_nothing_new(kept: Round, data: st.DataObject) -> None:
    """One bit of evidence about an honest sum: no bit of it convicts the coordinator."""
    raw = bytearray(kept.evidence(kept.record, 1, kept.total).encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Refused):
        false_sum(bytes(raw), kept.fed.roster)


def test_the_largest_evidence_fits(kept: Round) -> None:
    path = (bytes(32),) * 20
    piece = Piece(np.zeros(PIECE_WORDS, dtype="<u8"), path)
    largest = Evidence(bytes(4 << 20), 0, dict.fromkeys(range(200), piece), piece)
    assert len(largest.encode()) <= MAX_EVIDENCE
    assert len(Evidence.decode(largest.encode()).uploads) == 200
