"""Any piece of a round's sum can be recomputed from the kept uploads, and every lie about it has its code."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import masking, merkle
from cotune.secagg.audit import audit_piece
from cotune.secagg.collecting import Step
from cotune.secagg.control import CONTROL_WORDS
from cotune.secagg.encoding import Encoding
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.pieces import Piece, piece_of
from cotune.secagg.record import RoundRecord, Verified, genesis, next_head, verify
from cotune.secagg.recovery import remaining_streams
from cotune.secagg.refused import Refused
from cotune.secagg.suites import suite_of
from cotune.secagg.wire import peek
from numpy.typing import NDArray

# Two whole pieces and a short one, at three lanes in a word.
DIMENSION = 3 * (2 * PIECE_WORDS + 100)
LAST = 2


@dataclass
class Kept:
    """What the server kept of a round: the record, every masked upload, the bare sum."""

    fed: Any
    verified: Verified
    uploads: dict[int, NDArray[np.uint64]]
    words: NDArray[np.uint64]

    def pieces(self, number: int, **changed: NDArray[np.uint64]) -> dict[int, Piece]:
        vectors = self.uploads | {int(name[1:]): words for name, words in changed.items()}
        return {i: piece_of(words, number, self.verified.ctx2, i) for i, words in vectors.items()}

    def result(self, number: int) -> Piece:
        return piece_of(self.words, number, self.verified.ctx2, merkle.SUM)

    def refusal(
        self, number: int, uploads: dict[int, Piece], result: Piece, verified: Verified | None = None
    ) -> Refused:
        with pytest.raises(Refused) as no:
            audit_piece(verified or self.verified, number, uploads, result)
        return no.value


@pytest.fixture(scope="module", params=[(), (3,)], ids=["all", "one dropout"])
def kept(federation_of: Callable[..., Any], request: pytest.FixtureRequest) -> Kept:
    fed = federation_of(4, Encoding(((DIMENSION - 7, 1.0), (7, 0.5)), 4, 21))
    fed.vectors *= 0.5
    inboxes, uploads = fed.share(), {}
    for i in sorted(fed.present() - set(request.param)):
        header, uploads[i] = fed.organizations[i].mask(inboxes[i], fed.vectors[i])
        assert fed.coordinator.add_upload(i, header, uploads[i])
    survivors = fed.coordinator.close_uploads()
    for i in fed.coordinator.present(Step.UPLOADS):
        assert fed.coordinator.add_survival(i, fed.organizations[i].survive(survivors))
    quorum = fed.coordinator.close_survival()
    for i in fed.coordinator.present(Step.SURVIVALS):
        assert fed.coordinator.add_reveal(i, fed.organizations[i].unmask(quorum))
    outcome = fed.coordinator.result()
    run = fed.plan().run
    return Kept(fed, verify(outcome.record, fed.roster, run, genesis(run, fed.roster)), uploads, outcome.words)


def bumped(words: NDArray[np.uint64], at: int) -> NDArray[np.uint64]:
    altered = words.copy()
    altered[at] += np.uint64(1)
    return altered


def test_every_piece_of_an_honest_round(kept: Kept) -> None:
    assert len(kept.words) == CONTROL_WORDS + DIMENSION // 3
    pieces = [
        audit_piece(kept.verified, number, kept.pieces(number), kept.result(number)) for number in range(LAST + 1)
    ]
    assert len(pieces[LAST]) == 100 + CONTROL_WORDS
    assert np.array_equal(np.concatenate(pieces), kept.words)


def test_a_piece_that_the_vector_does_not_have(kept: Kept) -> None:
    for number in (-1, LAST + 1):
        assert kept.refusal(number, kept.pieces(0), kept.result(0)).code == "audit.piece"


def test_a_missing_upload_names_its_organization(kept: Kept) -> None:
    uploads = kept.pieces(1)
    del uploads[2]
    no = kept.refusal(1, uploads, kept.result(1))
    assert (no.code, no.member) == ("audit.missing", 2)


@pytest.mark.parametrize("number", range(LAST + 1))
def test_an_upload_that_was_changed_after_the_fact(kept: Kept, number: int) -> None:
    """Wherever the change is: in the piece or, with its new path, elsewhere in the vector."""
    for at in (number * PIECE_WORDS + 9, (number + 1) % (LAST + 1) * PIECE_WORDS + 9):
        no = kept.refusal(number, kept.pieces(number, _1=bumped(kept.uploads[1], at)), kept.result(number))
        assert (no.code, no.member) == ("audit.upload", 1)


def test_pieces_of_a_wrong_shape_type_or_place(kept: Kept) -> None:
    honest = kept.pieces(LAST)
    piece = honest[0]
    wide = np.stack([piece.words, piece.words], axis=1)[:, 0]
    for bad in (
        replace(piece, words=piece.words[:-1]),
        replace(piece, words=piece.words.astype(np.float64)),
        replace(piece, words=wide),
        replace(piece, path=piece.path[:-1]),
        replace(piece, path=(*piece.path, bytes(32))),
        honest[1],
        kept.pieces(0)[0],
    ):
        no = kept.refusal(LAST, honest | {0: bad}, kept.result(LAST))
        assert (no.code, no.member) == ("audit.upload", 0)


def test_another_sum_than_the_recorded_one(kept: Kept) -> None:
    lie = bumped(kept.words, PIECE_WORDS + 5)
    result = piece_of(lie, 1, kept.verified.ctx2, merkle.SUM)
    assert kept.refusal(1, kept.pieces(1), result).code == "audit.sum"


def forged(kept: Kept, words: NDArray[np.uint64]) -> Verified:
    """The coordinator records a sum of its own making; the record holds, since it follows from itself."""
    record = kept.verified.record
    result = merkle.root(words, kept.verified.ctx2, merkle.SUM)
    roots = tuple(kept.verified.roots.values())
    prev_head = kept.verified.plan.prev_head
    head = next_head(prev_head, kept.verified.ctx2, kept.verified.survivors, roots, result)
    lying: RoundRecord = replace(record, result=result, head=head)
    message = lying.sign(kept.fed.coordinator_key)
    assert RoundRecord.decode(peek(message)[0]) == lying
    return verify(message, kept.fed.roster, kept.verified.plan.run, prev_head)


@pytest.mark.parametrize("number", range(LAST + 1))
def test_a_server_that_changes_the_sum_but_not_the_control_words(kept: Kept, number: int) -> None:
    lie = bumped(kept.words, number * PIECE_WORDS + CONTROL_WORDS + 1)
    verified = forged(kept, lie)
    result = piece_of(lie, number, verified.ctx2, merkle.SUM)
    assert kept.refusal(number, kept.pieces(number), result, verified).code == "audit.result"
    for other in set(range(LAST + 1)) - {number}:
        honest = piece_of(lie, other, verified.ctx2, merkle.SUM)
        audit_piece(verified, other, kept.pieces(other), honest)  # what was not changed still holds


def test_masks_that_do_not_cancel(kept: Kept) -> None:
    """Secrets that are not those of the round (no verified record holds them) leave the control words masked."""
    wrong = {i: bytes(32) for i in kept.verified.self_secrets}
    verified = replace(kept.verified, self_secrets=wrong)
    assert kept.refusal(0, kept.pieces(0), kept.result(0), verified).code == "sum.control"


def test_a_sum_that_was_recorded_with_masks_on_it(kept: Kept) -> None:
    """The record's secrets leave masks on the sum, and its result is the hash of just that: no piece is a sum.

    What a dropped member had agreed upon is random here where there is such a thing, else the members' own secrets.
    """
    true = kept.verified
    agreed = {index: os.urandom(len(bytes_)) for index, bytes_ in true.agreed.items()}
    own = true.self_secrets if any(agreed.values()) else {i: os.urandom(32) for i in true.self_secrets}
    lie = sum(kept.uploads[i] for i in true.survivors)
    suite = suite_of(true.plan.suite)
    masking.apply(lie, remaining_streams(own, true.mask_secrets, agreed, true.cohort, true.ctx2, suite))
    verified = replace(forged(kept, lie), self_secrets=own, agreed=agreed)
    assert not np.array_equal(lie, kept.words)
    for number in range(LAST + 1):
        result = piece_of(lie, number, verified.ctx2, merkle.SUM)
        code = kept.refusal(number, kept.pieces(number), result, verified).code
        assert code == ("sum.range" if number else "sum.control")
