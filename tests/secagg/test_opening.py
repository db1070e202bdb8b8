"""Where a sum cannot be read, one piece of it is opened, and whoever spoiled it is named: never an honest member."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import masking
from cotune.secagg.blame import spoilers
from cotune.secagg.collecting import Step
from cotune.secagg.control import CONTROL_WORDS
from cotune.secagg.coordinator import Coordinator
from cotune.secagg.identity import new_identity
from cotune.secagg.keys import survivors_statement
from cotune.secagg.limits import NormLimits
from cotune.secagg.masking import CHUNK_WORDS
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.opening import Opened, Opening, Verdict, judge, stream_words
from cotune.secagg.pieces import Piece
from cotune.secagg.refused import Refused
from cotune.secagg.suites import CLASSIC, HYBRID
from cotune.secagg.wire import MAX_MESSAGE, peek, seal
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Build = Callable[..., Any]
Refusal = Callable[..., Refused]
SPARE = np.uint64(1 << 63)  # no lane of 21 bits reaches it
SIZE = 3 * (2 * PIECE_WORDS + 50)  # three pieces


def control(words: NDArray[np.uint64]) -> None:
    words[2] += np.uint64(1)


def middle(words: NDArray[np.uint64]) -> None:
    words[PIECE_WORDS + 5] ^= SPARE


def last(words: NDArray[np.uint64]) -> None:
    words[-1] ^= SPARE


def everywhere(words: NDArray[np.uint64]) -> None:
    words[:] = np.random.default_rng(1).integers(0, 2**64, words.shape, dtype=np.uint64)


@pytest.mark.parametrize(("change", "piece"), [(control, 0), (middle, 1), (last, 2), (everywhere, 0)])
def test_who_spoils_a_sum_is_convicted(federation: Build, spoiled: Build, change: Any, piece: int) -> None:
    round_ = spoiled(federation(4, SIZE), {1: change})
    with pytest.raises(Refused, match=r"sum\."):
        round_.server.result()
    assert round_.server.fault() == piece
    request = round_.server.opening_request(round_.piece_of)
    for i in range(4):
        member = round_.member(i)
        assert round_.server.add_opened(i, member.open(request))
        assert member._state.seeds == ()
    assert round_.server.verdict() == Verdict((1,), (), ())


def test_a_spoiler_in_a_later_chunk_and_two_of_them(federation: Build, spoiled: Build) -> None:
    """The first piece at fault lies in the second masking chunk; both are convicted at once."""
    at = CHUNK_WORDS + PIECE_WORDS + 3

    def far(words: NDArray[np.uint64]) -> None:
        words[at : at + 1] += np.uint64(1 << 62)

    fed = federation(5, 3 * (CHUNK_WORDS + 2 * PIECE_WORDS))
    round_ = spoiled(fed, {0: far, 3: far})
    assert round_.server.fault() == at // PIECE_WORDS
    request = round_.server.opening_request(round_.piece_of)
    assert all(round_.server.add_opened(i, round_.member(i).open(request)) for i in range(5))
    assert round_.server.verdict() == Verdict((0, 3), (), ())


def test_after_a_dropout_its_masks_come_off_by_its_revealed_secret(federation: Build, spoiled: Build) -> None:
    """In suite hybrid nothing proves what the dropped member had agreed upon, so nothing is opened."""
    round_ = spoiled(federation(4, SIZE), {2: middle}, gone=frozenset({0}))
    round_.fed.organizations[0] = round_.fed.organizations[1]  # `ctx2` of the fixture: one that uploaded
    if round_.fed.suite is not CLASSIC:
        with pytest.raises(Refused) as no:
            round_.server.opening_request(round_.piece_of)
        assert no.value.code == "open.dropped"
        return
    request = round_.server.opening_request(round_.piece_of)
    assert all(round_.server.add_opened(i, round_.member(i).open(request)) for i in (1, 2, 3))
    assert round_.server.verdict() == Verdict((2,), (), ())


LIMITS = NormLimits((1.0,) * 4, 0.001, SIZE)


def test_a_vector_beyond_its_norm_limit_convicts(federation: Build, spoiled: Build) -> None:
    """In every lane's range and with a sum in every lane's range: only the norm tells. The longest piece is opened."""
    fed = federation(4, SIZE)
    fed.vectors *= 0.001
    fed.vectors[3] = 0.5
    round_ = spoiled(fed, {}, LIMITS)
    with pytest.raises(Refused) as no:
        round_.server.result()
    assert (no.value.code, no.value.piece) == ("sum.norm", round_.server.fault())
    request = round_.server.opening_request(round_.piece_of)
    with pytest.raises(Refused, match=r"open\.sound"):
        round_.member(0).open(request)  # it was told of no limits
    assert all(round_.server.add_opened(i, round_.member(i).open(request, LIMITS)) for i in range(4))
    assert round_.server.verdict() == Verdict((3,), (), ())


def test_within_the_limits_there_is_a_sum(federation: Build, spoiled: Build) -> None:
    fed = federation(4, SIZE)
    fed.vectors *= 0.001
    round_ = spoiled(fed, {}, LIMITS)
    for call in (round_.server.fault, lambda: round_.server.opening_request(round_.piece_of)):
        with pytest.raises(Refused, match=r"open\.sound"):
            call()
    assert np.allclose(round_.server.result().values, fed.vectors.sum(axis=0), atol=1e-4)


# Whatever liars say.

N = 7
HONEST, LIARS = (0, 2, 3, 6), (1, 4, 5)


@pytest.fixture(scope="module")
def stage(federation: Build, spoiled: Build) -> SimpleNamespace:
    """Organizations 1 and 4 spoiled piece 1, 5 did not; what all of them would truly say."""

    def other(words: NDArray[np.uint64]) -> None:
        words[PIECE_WORDS + 5] ^= SPARE
        words[PIECE_WORDS + 70 :][:1] += SPARE >> np.uint64(1)

    round_ = spoiled(federation(N, SIZE), {1: other, 4: last_of_piece})
    request = round_.server.opening_request(round_.piece_of)
    truth = {i: Opened.decode(peek(round_.member(i).open(request))[0]) for i in range(N)}
    server = round_.server
    return SimpleNamespace(truth=truth, parts=(server._spoiled, server._opening, server._uncovered))


def last_of_piece(words: NDArray[np.uint64]) -> None:
    words[2 * PIECE_WORDS - 1] ^= SPARE


def lied(opened: Opened, position: int, at: int, by: int) -> Opened:
    """One stream with one word changed."""
    words = np.frombuffer(opened.streams[position], dtype="<u8").copy()
    words[at : at + 1] += np.uint64(by)
    streams = (*opened.streams[:position], words.tobytes(), *opened.streams[position + 1 :])
    return replace(opened, streams=streams)


@st.composite
def said(draw: st.DrawFn, truth: dict[int, Opened]) -> dict[int, Opened]:
    """What comes to the coordinator: liars change words, alone or in step with each other, or are silent."""
    found = dict(truth)
    for liar in LIARS:
        for _ in range(draw(st.integers(0, 3))):
            position = draw(st.integers(0, N - 2))
            peer = [i for i in range(N) if i != liar][position]
            at = draw(st.sampled_from([5, 70, PIECE_WORDS - 1, 9]))
            by = draw(st.sampled_from([1 << 63, 1 << 62, 3 << 62, 1]))
            found[liar] = lied(found[liar], position, at, by)
            if peer in LIARS and draw(st.booleans()):
                found[peer] = lied(found[peer], [i for i in range(N) if i != peer].index(liar), at, by)
    silent = draw(st.one_of(st.just(frozenset()), st.frozensets(st.integers(0, N - 1))))
    return {i: message for i, message in found.items() if i not in silent}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_honest_member_is_convicted_and_somebody_is_found(stage: Any, data: st.DataObject) -> None:
    verdicts = []
    for _ in range(data.draw(st.integers(1, 3))):
        opened = data.draw(said(stage.truth))
        verdict = judge(*stage.parts, opened, None)
        assert set(verdict.convicted) <= set(LIARS)
        assert all(set(pair) & set(LIARS) for pair in verdict.disputes)
        assert all(one < other for one, other in verdict.disputes)
        assert verdict.silent == tuple(i for i in range(N) if i not in opened)
        assert verdict.convicted or verdict.disputes or verdict.silent
        verdicts.append(verdict)
    out = set(spoilers(verdicts))
    found = [verdict for verdict in verdicts if verdict.convicted or verdict.disputes]
    out_by_words = set(spoilers(found))
    assert len(out_by_words & set(HONEST)) <= len(set(LIARS) - out_by_words)
    assert out >= {i for verdict in verdicts for i in verdict.convicted}


@pytest.mark.parametrize("peer", [0, 4])
def test_who_hides_what_it_sent_stands_in_a_dispute(stage: Any, peer: int) -> None:
    """Organization 1 lies about one stream so that its piece comes out well: an honest one's, or an accomplice's."""
    position, sign = [i for i in range(N) if i != 1].index(peer), masking.pair_sign(1, peer)
    hidden = lied(stage.truth[1], position, 5, 1 << 63)
    hidden = lied(hidden, position, 70, (sign * (1 << 62)) % 2**64)
    verdict = judge(*stage.parts, stage.truth | {1: hidden}, None)
    assert verdict == Verdict((4,), ((min(1, peer), max(1, peer)),), ())
    assert spoilers([verdict]) == ((1, 4) if peer == 0 else (4,))
    other = lied(stage.truth[4], 1, 5, 1 << 63)
    other = lied(other, 1, 70, (sign * (1 << 62)) % 2**64)
    if peer == 4:  # in step: the accomplice takes all of it upon itself
        assert judge(*stage.parts, stage.truth | {1: hidden, 4: other}, None) == Verdict((4,), (), ())


def test_a_silent_member_is_not_convicted_by_what_others_say_of_it(stage: Any) -> None:
    opened = {i: message for i, message in stage.truth.items() if i not in (0, 4)}
    opened[5] = lied(opened[5], 0, 9, 1 << 63)
    verdict = judge(*stage.parts, opened, None)
    assert verdict == Verdict((1, 5), (), (0, 4))


def test_the_silent_are_left_out_only_where_nobody_else_is_found() -> None:
    assert spoilers([]) == ()
    assert spoilers([Verdict((), (), (2, 5))]) == (2, 5)
    assert spoilers([Verdict((1,), (), (2,)), Verdict((), ((0, 3),), (4,))]) in ((0, 1), (1, 3))


def test_who_disputes_with_one_after_the_other_leaves_at_last() -> None:
    """Each opening alone leaves open which of the two lies; over the run only one explains them all."""
    rounds = [Verdict((), ((0, 4),), ()), Verdict((), ((0, 5),), ()), Verdict((), ((0, 6),), ())]
    assert len(spoilers(rounds[:1])) == 1
    assert spoilers(rounds[:2]) == (0,)
    assert spoilers([*rounds, Verdict((5,), (), ())]) == (0, 5)


# What a member asks before it gives away a word.


def opened_body(round_: Any, request: bytes, **changes: Any) -> bytes:
    """The request with fields changed, signed by the coordinator."""
    opening = replace(Opening.decode(peek(request)[0]), **changes)
    return seal("opening", opening.encode(), round_.fed.coordinator_key)


@pytest.fixture(scope="module")
def spoilt(federation: Build, spoiled: Build) -> SimpleNamespace:
    """Organization 1 spoiled pieces 1 and 2; organization 0 is in suite classic not in the sum."""
    fed = federation(4, SIZE)
    gone = frozenset({3}) if fed.suite is CLASSIC else frozenset()

    def both(words: NDArray[np.uint64]) -> None:
        middle(words)
        last(words)

    round_ = spoiled(fed, {1: both}, gone=gone)
    return SimpleNamespace(round=round_, request=round_.server.opening_request(round_.piece_of))


def test_an_opening_of_another_round_or_of_other_uploads(spoilt: Any, refusal_of: Refusal) -> None:
    round_, opening = spoilt.round, Opening.decode(peek(spoilt.request)[0])
    roots = (bytes(32), *opening.roots[1:])
    other = survivors_statement(round_.ctx2, round_.survivors, roots)
    bad = [{"statement": bytes(32)}, {"roots": roots}, {"roots": roots, "statement": other}, {"roots": ()}]
    for changes in bad:
        message = opened_body(round_, spoilt.request, **changes)
        assert refusal_of(round_.member(0).open, message).code == "open.statement"


def test_an_opening_with_false_secrets(spoilt: Any, refusal_of: Refusal) -> None:
    round_, opening = spoilt.round, Opening.decode(peek(spoilt.request)[0])
    mine, others = opening.self_secrets[0], opening.self_secrets[1:]
    bad: list[tuple[dict[str, Any], str, int | None]] = [
        ({"self_secrets": (bytes(32), *others)}, "record.commitment", 0),
        ({"self_secrets": others}, "record.secrets", None),
        ({"self_secrets": (mine[:-1], *others)}, "record.secrets", None),
        ({"mask_secrets": (*opening.mask_secrets, bytes(32))}, "record.secrets", None),
    ]
    if opening.mask_secrets:
        bad += [
            ({"mask_secrets": (bytes(range(32)),)}, "record.mask_key", 3),
            ({"mask_secrets": ()}, "record.secrets", None),
        ]
    for changes, code, member in bad:
        no = refusal_of(round_.member(0).open, opened_body(round_, spoilt.request, **changes))
        assert (no.code, no.member) == (code, member)


def test_an_opening_with_pieces_that_nobody_signed(spoilt: Any, refusal_of: Refusal) -> None:
    round_, opening = spoilt.round, Opening.decode(peek(spoilt.request)[0])
    words = opening.pieces[2].words.copy()
    words[0] += np.uint64(1)
    bad: list[tuple[dict[str, Any], int | None]] = [
        ({"pieces": (*opening.pieces[:2], replace(opening.pieces[2], words=words))}, round_.survivors[2]),
        ({"pieces": opening.pieces[1:] + opening.pieces[:1]}, 0),
        ({"pieces": opening.pieces[:-1]}, None),
        ({"pieces": (*opening.pieces, opening.pieces[0])}, None),
        ({"number": 2}, 0),
        ({"number": 3}, None),
        ({"number": 2**32 - 1}, None),
    ]
    if len(round_.survivors) == 4:
        bad[0] = ({"pieces": (*opening.pieces[:2], replace(opening.pieces[2], words=words), opening.pieces[3])}, 2)
    for changes, member in bad:
        no = refusal_of(round_.member(0).open, opened_body(round_, spoilt.request, **changes))
        assert (no.code, no.member) == ("open.piece", member)


def test_a_piece_that_is_a_sum_is_never_opened(spoilt: Any, refusal_of: Refusal) -> None:
    round_ = spoilt.round
    pieces = tuple(round_.piece_of(i, 0) for i in round_.survivors)
    message = opened_body(round_, spoilt.request, number=0, pieces=pieces)
    assert refusal_of(round_.member(0).open, message).code == "open.sound"


def test_one_piece_in_a_round_and_then_the_seeds_are_gone(spoilt: Any, refusal_of: Refusal) -> None:
    """The journal knows it, whatever old state the member is given."""
    round_ = spoilt.round
    pieces = tuple(round_.piece_of(i, 2) for i in round_.survivors)
    second = opened_body(round_, spoilt.request, number=2, pieces=pieces)
    member = round_.member(2)
    first = member.open(spoilt.request)
    assert refusal_of(member.open, spoilt.request).code == "open.never"
    assert round_.fed.reload(2, member.dump())._state.seeds == ()
    old = round_.member(2)
    dump = old.dump()
    assert refusal_of(old.open, second).code == "journal.conflict"
    assert old.dump() == dump
    assert peek(old.open(spoilt.request))[0] == peek(first)[0]


def test_only_who_was_told_to_keep_its_seeds_opens(federation: Build, spoiled: Build, refusal_of: Refusal) -> None:
    round_ = spoiled(federation(4, SIZE), {1: middle}, kept=frozenset({0, 1, 2}))
    request = round_.server.opening_request(round_.piece_of)
    assert refusal_of(round_.member(3).open, request).code == "open.never"
    member = round_.member(2)
    member.forget()
    assert refusal_of(member.open, request).code == "open.never"
    assert refusal_of(round_.fed.reload(2, member.dump()).open, request).code == "open.never"
    assert round_.server.add_opened(0, round_.member(0).open(request))
    assert round_.server.verdict() == Verdict((), (), (1, 2, 3))


def test_who_has_not_revealed_does_not_open(spoilt: Any, refusal_of: Refusal) -> None:
    """The quorum is checked before the reveal: until then nothing shows that the others signed the same survivors."""
    early = spoilt.round.fed.reload(0, spoilt.round.before[0])
    assert refusal_of(early.open, spoilt.request).code == "phase"


def test_an_opening_that_the_coordinator_did_not_sign(spoilt: Any, refusal_of: Refusal) -> None:
    forged = seal("opening", peek(spoilt.request)[0], spoilt.round.fed.keys[1])
    assert refusal_of(spoilt.round.member(0).open, forged).code == "wire.signature"


def test_seeds_are_kept_for_survivors_alone(spoilt: Any) -> None:
    """From the survivors on; a dump without seeds is what a member that keeps none has."""
    for i in spoilt.round.survivors:
        assert len(spoilt.round.member(i)._state.seeds) == len(spoilt.round.survivors) - 1


def test_what_is_given_away_is_the_stream_of_one_piece(spoilt: Any) -> None:
    round_ = spoilt.round
    opened = Opened.decode(peek(round_.member(0).open(spoilt.request))[0])
    size = CONTROL_WORDS + round_.fed.encoding.words
    assert opened.streams == tuple(stream_words(seed, 1, size) for seed in round_.member(0)._state.seeds)
    assert all(len(stream) == 8 * PIECE_WORDS for stream in opened.streams)


def test_the_largest_messages_fit() -> None:
    """Two hundred members, and more hashes on a path than any vector has."""
    piece = Piece(np.zeros(PIECE_WORDS, dtype="<u8"), (bytes(32),) * 20)
    secrets = (bytes(32),) * 200
    opening = Opening(bytes(32), 0, secrets, secrets, secrets, (piece,) * 200)
    opened = Opened(bytes(32), 0, 0, (bytes(8 * PIECE_WORDS),) * 199)
    for message in (opening, opened):
        envelope = seal("opening", message.encode(), new_identity(HYBRID))
        assert len(envelope) <= MAX_MESSAGE
        assert type(message).decode(peek(envelope)[0]).encode() == message.encode()


# What the coordinator takes.


def test_answers_that_do_not_count(federation: Build, spoiled: Build) -> None:
    fed = federation(4, SIZE)
    round_ = spoiled(fed, {1: middle}, gone=frozenset({3}) if fed.suite is CLASSIC else frozenset())
    server = round_.server
    assert not server.add_opened(0, b"")
    assert server.rejections[-1].code == "message.late"
    request = server.opening_request(round_.piece_of)
    message = round_.member(0).open(request)
    honest = Opened.decode(peek(message)[0])
    assert not server.add_opened(1, message)
    assert server.rejections[-1].code == "message.index"
    bad: list[tuple[Opened, int, str]] = [
        (replace(honest, statement=bytes(32)), 0, "opened.statement"),
        (replace(honest, number=2), 0, "opened.statement"),
        (replace(honest, streams=honest.streams[:-1]), 0, "opened.streams"),
        (replace(honest, streams=(honest.streams[0][:-8], *honest.streams[1:])), 0, "opened.streams"),
    ]
    if fed.suite is CLASSIC:
        bad.append((replace(honest, index=3), 3, "opened.stranger"))
    for opened, index, code in bad:
        assert not server.add_opened(index, seal("opened", opened.encode(), fed.keys[index]))
        assert server.rejections[-1].code == code
    assert server.add_opened(0, message)
    assert server.add_opened(0, message)
    second = seal("opened", lied(honest, 0, 5, 1).encode(), fed.keys[0])
    assert not server.add_opened(0, second)
    assert server.rejections[-1].code == "message.second"
    assert not server.add_reveal(0, b"")
    assert server.rejections[-1].code == "message.late"


def test_openings_come_after_a_sum_that_cannot_be_read(federation: Build, spoiled: Build, refusal_of: Refusal) -> None:
    fed = federation(4, SIZE)
    empty = Coordinator(fed.roster, fed.plan(), fed.coordinator_key)
    assert refusal_of(empty.verdict).code == "round.order"
    assert refusal_of(empty.fault).code == "round.order"
    round_ = spoiled(fed, {1: middle})
    assert refusal_of(round_.server.verdict).code == "round.order"
    wrong = replace(round_.piece_of(2, 1), path=())
    bent = refusal_of(round_.server.opening_request, lambda i, n: wrong if i == 2 else round_.piece_of(i, n))
    assert (bent.code, bent.member) == ("open.piece", 2)
    assert round_.server.step is Step.REVEALS
    round_.server.opening_request(round_.piece_of)
    assert refusal_of(round_.server.result).code == "round.order"
