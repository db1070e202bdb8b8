"""Norm limits: honest noise stays within them, a sum beyond its limit holds a member beyond its own."""

from collections.abc import Callable
from math import exp, sqrt

import numpy as np
import pytest
from cotune.secagg import merkle
from cotune.secagg.control import BLOCK, CONTROL_WORDS
from cotune.secagg.encoding import Encoding
from cotune.secagg.limits import TAIL, NormLimits, check_norms, check_piece, check_values
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.refused import Refused
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Refusal = Callable[..., Refused]
ADAPTER, METRICS = 3 * 2 * PIECE_WORDS, 40
# Three pieces; lanes of three words' worth each, so that a piece holds three runs of coordinates.
ENCODING = Encoding(((ADAPTER, 1.0), (METRICS, 1000.0)), 4, 21)
LIMITS = NormLimits((1.0, 2.0, 0.5, 4.0), 0.01, ADAPTER)
PIECES = merkle.pieces(CONTROL_WORDS + ENCODING.words)


def words_of(vector: NDArray[np.float64]) -> NDArray[np.uint64]:
    words = np.zeros(CONTROL_WORDS + ENCODING.words, dtype="<u8")
    words[:CONTROL_WORDS] = BLOCK
    ENCODING.encode(vector, words[CONTROL_WORDS:])
    return words


def piece(words: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
    return words[number * PIECE_WORDS :][:PIECE_WORDS]


def of_piece(number: int) -> list[int]:
    """The coordinates of a piece, by the layout that docs/secure-aggregation.md describes."""
    words = [w - CONTROL_WORDS for w in range(number * PIECE_WORDS, (number + 1) * PIECE_WORDS) if w >= CONTROL_WORDS]
    found = [lane * ENCODING.words + w for w in words if w < ENCODING.words for lane in range(3)]
    return [at for at in found if at < ADAPTER]


def test_limits_of_members_add_up() -> None:
    limit = LIMITS.of_member(1, 100, 1e-6)
    assert limit == pytest.approx(2.0 + 0.01 * (10 + TAIL) + 1e-5)
    assert LIMITS.of_sum((0, 1, 3), 100, 1e-6) == pytest.approx(sum(LIMITS.of_member(i, 100, 1e-6) for i in (0, 1, 3)))
    assert LIMITS.of_sum((0, 1), 100, 0.0) > LIMITS.of_member(0, 100, 0.0) + LIMITS.of_member(1, 100, 0.0)


def test_the_tail_is_as_rare_as_it_is_said_to_be() -> None:
    """P[norm of k normal numbers > sqrt(k) + a] <= exp(-a^2 / 2), for an a that can be drawn."""
    draws = np.random.default_rng(0).standard_normal((20_000, 50))
    norms = np.sqrt((draws**2).sum(axis=1))
    for a in (0.5, 1.0, 2.0, 3.0):
        assert (norms > sqrt(50) + a).mean() <= exp(-(a**2) / 2)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), survivors=st.sampled_from([(0, 1, 2), (1, 2, 3), (0, 1, 2, 3)]))
def test_honest_members_are_within_their_limits_alone_and_together(seed: int, survivors: tuple[int, ...]) -> None:
    """Each update as long as it may be, all of it in one piece, and all of them in one direction."""
    generator = np.random.default_rng(seed)
    direction = np.zeros(ENCODING.dimension)
    direction[of_piece(1)] = generator.standard_normal(len(of_piece(1)))
    direction /= np.linalg.norm(direction)
    uploads = []
    for i in survivors:
        vector = LIMITS.base[i] * direction + LIMITS.spread * generator.standard_normal(ENCODING.dimension)
        vector[ADAPTER:] = 900.0
        uploads.append(words_of(vector))
        for number in range(PIECES):
            check_piece(ENCODING, piece(uploads[-1], number), number, (i,), LIMITS)
    total = np.sum(uploads, axis=0, dtype="<u8")
    check_norms(ENCODING, total, survivors, LIMITS)
    for number in range(PIECES):
        check_piece(ENCODING, piece(total, number), number, survivors, LIMITS)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_sum_beyond_its_limit_holds_a_member_beyond_its_own(data: st.DataObject) -> None:
    """Whatever they send: the pigeonhole that makes an opened piece name somebody."""
    survivors, uploads, number = (0, 2, 3), {}, data.draw(st.integers(0, PIECES - 1))
    for i in survivors:
        size = data.draw(st.floats(0.5, 1.6)) * LIMITS.of_member(i, len(of_piece(number)), 0.0)
        vector = np.zeros(ENCODING.dimension)
        vector[of_piece(number)] = size / sqrt(max(1, len(of_piece(number))))
        uploads[i] = words_of(vector)
    total = np.sum(list(uploads.values()), axis=0, dtype="<u8")

    def beyond(words: NDArray[np.uint64], members: tuple[int, ...]) -> bool:
        try:
            check_piece(ENCODING, piece(words, number), number, members, LIMITS)
        except Refused as no:
            assert no.code == "sum.norm"  # noqa: PT017
            return True
        return False

    assume(beyond(total, survivors))
    assert any(beyond(uploads[i], (i,)) for i in survivors)


@pytest.mark.parametrize("number", range(PIECES))
def test_the_piece_most_beyond_its_limit_is_named(refusal_of: Refusal, number: int) -> None:
    vector = np.zeros(ENCODING.dimension)
    vector[of_piece(number)] = 0.9
    if number < 2:
        vector[of_piece(1 - number)] = 0.5  # beyond its limit as well, but less
    total = np.sum([words_of(vector)] * 3, axis=0, dtype="<u8")
    no = refusal_of(check_norms, ENCODING, total, (0, 1, 2), LIMITS)
    assert (no.code, no.piece) == ("sum.norm", number)
    assert refusal_of(check_piece, ENCODING, piece(total, number), number, (0, 1, 2), LIMITS).code == "sum.norm"
    values = ENCODING.decode(total[CONTROL_WORDS:], 3)
    assert refusal_of(check_values, ENCODING, values, (0, 1, 2), LIMITS).piece == no.piece


def test_what_stands_behind_the_adapter_has_no_norm_limit() -> None:
    vector = np.zeros(ENCODING.dimension)
    vector[ADAPTER:] = 1000.0
    total = np.sum([words_of(vector)] * 3, axis=0, dtype="<u8")
    check_norms(ENCODING, total, (0, 1, 2), LIMITS)
    check_norms(ENCODING, total, (0, 1, 2), NormLimits((0.0,) * 4, 0.0, 0))
    for number in range(PIECES):
        check_piece(ENCODING, piece(total, number), number, (0, 1, 2), LIMITS)
        check_piece(ENCODING, piece(total, number), number, (0, 1, 2), NormLimits((0.0,) * 4, 0.0, 0))


def test_a_piece_out_of_range_has_no_norm(refusal_of: Refusal) -> None:
    total = words_of(np.zeros(ENCODING.dimension))
    total[-1] |= np.uint64(1 << 63)
    assert refusal_of(check_norms, ENCODING, total, (0,), LIMITS).code == "sum.range"
    assert refusal_of(check_piece, ENCODING, piece(total, PIECES - 1), PIECES - 1, (0,), LIMITS).code == "sum.range"


def test_the_largest_step_of_the_adapter_counts() -> None:
    encoding = Encoding(((5, 1.0), (5, 3.0), (5, 50.0)), 4, 16)
    steps = encoding.steps()
    assert [encoding.step_within(size) for size in (0, 5, 6, 10, 11, 99)] == [0.0, *steps[[0, 1, 1, 2, 2]]]
