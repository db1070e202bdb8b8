"""How many pieces, which ones, how they travel, and what a member's look at them finds."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import merkle
from cotune.secagg.control import CONTROL_WORDS
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.record import RoundRecord, Verified, next_head, verify
from cotune.secagg.refused import Refused
from cotune.secagg.spot_checks import check_pieces, check_sum, choose, decode_pieces, encode_pieces, pieces_for
from cotune.secagg.wire import peek
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Build = Callable[..., Any]
SIZE = 4 * PIECE_WORDS + 100  # five pieces, an odd number of leaves
DIMENSION = 3 * (SIZE - CONTROL_WORDS)


# How many.


def drawn_by_hand(pieces: int, altered: int, count: int) -> Fraction:
    """The chance to hit one of the first `altered` pieces, over every draw."""
    draws = list(combinations(range(pieces), count))
    return Fraction(sum(min(draw) < altered for draw in draws), len(draws))


@given(pieces=st.integers(1, 9), fraction=st.sampled_from([0.01, 0.1, 0.25, 0.5, 1.0]), chance=st.floats(0.01, 1.0))
def test_the_fewest_pieces_that_suffice(pieces: int, fraction: float, chance: float) -> None:
    """Against every draw there is; an alteration of one word more than m pieces hold is in more than m pieces."""
    count = pieces_for(fraction, chance, pieces)
    words = (pieces - 1) * PIECE_WORDS + 1 - CONTROL_WORDS  # the fewest for so many pieces
    altered = max(1, -(-Fraction(str(fraction)) * words // PIECE_WORDS))
    assert 1 <= count <= pieces
    assert count == pieces or drawn_by_hand(pieces, int(altered), count) >= Fraction(str(chance))
    assert count == 1 or drawn_by_hand(pieces, int(altered), count - 1) < Fraction(str(chance))


def test_how_many_of_a_large_vector() -> None:
    """The second by its product: 17 of 1628 pieces are altered, and none of the drawn ones is one of them."""
    assert pieces_for(0.1, 0.99, 1628) == 44
    missed = [prod((1611 - i) / (1628 - i) for i in range(count)) for count in (261, 262)]
    assert missed[0] > 0.05 > missed[1]
    assert pieces_for(0.01, 0.95, 1628) == 262
    assert pieces_for(1e-9, 0.5, 1000) == 500
    assert pieces_for(1e-9, 1.0, 1000) == 1000
    assert pieces_for(1.0, 0.999, 1) == 1


def test_a_chance_that_is_met_exactly_needs_no_piece_more() -> None:
    """One of ten pieces: nine draws find it with a chance of 0.9, which no double is."""
    assert pieces_for(0.05, 0.9, 10) == 9
    assert pieces_for(0.05, 0.1, 10) == 1


# Which.


@given(secret=st.binary(min_size=32, max_size=32), pieces=st.integers(1, 400), data=st.data())
def test_a_choice_is_different_pieces_in_order_and_the_same_each_time(
    secret: bytes, pieces: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, pieces))
    chosen = choose(secret, b"record", pieces, count)
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == count
    assert all(0 <= number < pieces for number in chosen)
    assert chosen == choose(secret, b"record", pieces, count)


def test_a_choice_depends_on_the_secret_and_on_the_record() -> None:
    secret = bytes(32)
    others = [choose(b"x" * 32, b"record", 10_000, 20), choose(secret, b"another", 10_000, 20)]
    assert choose(secret, b"record", 10_000, 20) not in others


def test_every_set_is_as_likely_as_any_other() -> None:
    """All ten pairs of five pieces, within five standard deviations."""
    draws = 5_000
    found = [choose(number.to_bytes(32, "big"), b"record", 5, 2) for number in range(draws)]
    counts = [found.count(pair) for pair in combinations(range(5), 2)]
    assert sum(counts) == draws
    assert all(abs(count - draws / 10) < 5 * (draws * 0.09) ** 0.5 for count in counts)


# How they travel, and what they show.


@pytest.fixture(scope="module", params=[(), (3,)], ids=["all", "one dropout"])
def kept(federation: Build, request: pytest.FixtureRequest) -> SimpleNamespace:
    """A round of five pieces whose uploads were kept."""
    fed = federation(4, DIMENSION)
    inboxes, uploads = fed.share(), {}
    for i in sorted(fed.present() - set(request.param)):
        header, uploads[i] = fed.organizations[i].mask(inboxes[i], fed.vectors[i])
        assert fed.coordinator.add_upload(i, header, uploads[i])
    bundle = fed.coordinator.close_uploads()
    for i in uploads:
        assert fed.coordinator.add_survival(i, fed.organizations[i].survive(bundle))
    quorum = fed.coordinator.close_survival()
    for i in uploads:
        assert fed.coordinator.add_reveal(i, fed.organizations[i].unmask(quorum))
    outcome, plan = fed.coordinator.result(), fed.plan()
    verified = verify(outcome.record, fed.roster, plan.run, plan.prev_head)
    held = {i: (words, paths_of(words, verified, i)) for i, words in uploads.items()}
    return SimpleNamespace(fed=fed, verified=verified, uploads=held, total=outcome.words, record=outcome.record)


def paths_of(words: NDArray[np.uint64], verified: Verified, index: int) -> list[tuple[bytes, ...]]:
    return merkle.paths(merkle.piece_leaves(words, verified.ctx2, index))


def recorded(kept: Any, words: NDArray[np.uint64]) -> Verified:
    """The record that the coordinator signs over a sum of its own making."""
    record, true = RoundRecord.decode(peek(kept.record)[0]), kept.verified
    result = merkle.root(words, true.ctx2, merkle.SUM)
    head = next_head(true.plan.prev_head, true.ctx2, true.survivors, tuple(true.roots.values()), result)
    message = replace(record, result=result, head=head).sign(kept.fed.coordinator_key)
    return verify(message, kept.fed.roster, true.plan.run, true.plan.prev_head)


@settings(max_examples=20)
@given(numbers=st.sets(st.integers(0, 4)).map(sorted))
def test_pieces_come_back_from_their_encoding_and_hold(kept: Any, numbers: list[int]) -> None:
    body, words = encode_pieces(numbers, kept.uploads)
    found = decode_pieces(body, words, kept.verified, numbers)
    for number, pieces in zip(numbers, found, strict=True):
        assert set(pieces) == set(kept.uploads)
        for i, piece in pieces.items():
            assert np.array_equal(piece.words, kept.uploads[i][0][number * PIECE_WORDS :][:PIECE_WORDS])
            assert piece.path == kept.uploads[i][1][number]
    check_pieces(kept.verified, numbers, found, kept.total)


def test_hashes_that_paths_share_travel_once(kept: Any) -> None:
    body, _ = encode_pieces(range(5), kept.uploads)
    inner = {place for number in range(5) for place in ((0, number ^ 1), (1, number // 2 ^ 1), (2, number // 4 ^ 1))}
    there = [(height, at) for height, at in inner if at < -(-5 // 2**height)]
    assert len(body) == 32 * len(there) * len(kept.uploads)


def test_pieces_of_another_form_are_refused(kept: Any, refusal_of: Callable[..., Refused]) -> None:
    body, words = encode_pieces([1, 4], kept.uploads)
    bad = [(body[:-1], words), (body + bytes(32), words), (b"", words), (body, words[:-1]), (body, words[:0])]
    bad += [(body, words.astype(np.int64)), (body, words.reshape(1, -1)), (body, np.append(words, words[:1]))]
    for bent in bad:
        assert refusal_of(decode_pieces, *bent, kept.verified, [1, 4]).code == "audit.pieces"
    assert refusal_of(decode_pieces, *encode_pieces([1], kept.uploads), kept.verified, [1, 4]).code == "audit.pieces"


@settings(max_examples=30)
@given(data=st.data())
def test_a_bent_answer_is_refused_and_its_owner_named(kept: Any, data: st.DataObject) -> None:
    """One bit of what the coordinator hands out; the fault lies in a piece that was asked for."""
    numbers = data.draw(st.sets(st.integers(0, 4), min_size=1).map(sorted))
    body, words = encode_pieces(numbers, kept.uploads)
    words = words.copy()
    if data.draw(st.booleans()) and body:
        raw = bytearray(body)
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1
        body = bytes(raw)
    else:
        words[data.draw(st.integers(0, len(words) - 1))] ^= np.uint64(1 << data.draw(st.integers(0, 63)))
    with pytest.raises(Refused) as no:
        check_pieces(kept.verified, numbers, decode_pieces(body, words, kept.verified, numbers), kept.total)
    assert no.value.code == "audit.upload"
    assert no.value.piece in numbers
    assert no.value.member in kept.uploads


def test_words_with_a_stride_are_read(kept: Any) -> None:
    body, words = encode_pieces([0, 2], kept.uploads)
    wide = np.stack([words, words], axis=1)[:, 0]
    check_pieces(kept.verified, [0, 2], decode_pieces(body, wide, kept.verified, [0, 2]), kept.total)


def test_the_sum_that_was_recorded(kept: Any, refusal_of: Callable[..., Refused]) -> None:
    check_sum(kept.verified, kept.total)
    changed = kept.total.copy()
    changed[-1] ^= np.uint64(1)
    wide = np.stack([kept.total, kept.total], axis=1)[:, 0]
    for other in (changed, kept.total[:-1], kept.total.astype(np.int64), wide, kept.total.reshape(1, -1)):
        assert refusal_of(check_sum, kept.verified, other).code == "audit.sum"


def test_a_recorded_sum_that_can_be_none_is_refused_with_its_piece(
    kept: Any, refusal_of: Callable[..., Refused]
) -> None:
    for at, bit, code in ((3, 0, "sum.control"), (PIECE_WORDS + 1, 63, "sum.range"), (SIZE - 1, 63, "sum.range")):
        lie = kept.total.copy()
        lie[at] ^= np.uint64(1 << bit)
        no = refusal_of(check_sum, recorded(kept, lie), lie)
        assert (no.code, no.piece) == (code, at // PIECE_WORDS)


def test_an_altered_sum_is_found_in_the_pieces_that_it_is_altered_in(
    kept: Any, refusal_of: Callable[..., Refused]
) -> None:
    lie = kept.total.copy()
    lie[2 * PIECE_WORDS + 7] += np.uint64(1)
    verified = recorded(kept, lie)
    check_sum(verified, lie)
    honest = decode_pieces(*encode_pieces([0, 1, 3, 4], kept.uploads), verified, [0, 1, 3, 4])
    check_pieces(verified, [0, 1, 3, 4], honest, lie)
    caught = decode_pieces(*encode_pieces([0, 2], kept.uploads), verified, [0, 2])
    no = refusal_of(check_pieces, verified, [0, 2], caught, lie)
    assert (no.code, no.piece) == ("audit.result", 2)
