"""Openings: the coordinator wants a piece of an honest vector, and asks for one.

Attacker: a coordinator with its genuine key. Gain: where every survivor opens one piece, that piece of each vector,
noise included. Alone it gets nothing: a piece is opened only where it shows that the sum of what the survivors signed
is no sum there (`open.sound`), and a sum of honest vectors is one, whatever the coordinator delivered, delayed or left
out before: different views give statements that the other does not know (`open.statement`), false secrets do not fit
the adverts, false pieces do not lie under the signed roots. With an accomplice among the members, who spoils a sum and
is found by the opening, it gets one piece of each, once in the round (`journal.conflict`); and by asking for different
pieces a second one of one member. That is the price of naming who spoils: epsilon and delta hold for a vector that its
owner noised alone, and where noise is shared nothing is opened (`open.never`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import masking
from cotune.secagg.control import CONTROL_WORDS
from cotune.secagg.keys import survivors_statement
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.opening import Opened, Opening, Spoiled, check_opening
from cotune.secagg.refused import Refused
from cotune.secagg.suites import CLASSIC
from cotune.secagg.wire import peek, seal
from numpy.typing import NDArray

Build = Callable[..., Any]
SIZE = 3 * (2 * PIECE_WORDS + 50)


def request(round_: Any, number: int, **changes: Any) -> bytes:
    """The opening of a piece that the coordinator can sign, whether there is a fault or not."""
    server = round_.server
    selves, masks, _, _ = server._bare()
    pieces = tuple(round_.piece_of(i, number) for i in round_.survivors)
    survivors = server._survivors
    secrets = (tuple(selves.values()), tuple(masks.values()))
    opening = replace(Opening(survivors.statement, number, survivors.roots, *secrets, pieces), **changes)
    return seal("opening", opening.encode(), round_.fed.coordinator_key)


@pytest.fixture(scope="module")
def honest(federation: Build, spoiled: Build) -> Any:
    """A round without a liar; its coordinator asks all the same."""
    return spoiled(federation(4, SIZE), {})


@pytest.mark.parametrize("number", range(3))
def test_among_honest_members_every_piece_is_sound(honest: Any, refusal: Build, number: int) -> None:
    message = request(honest, number)
    for i in range(4):
        assert refusal(honest.member(i).open, message) == "open.sound"


def test_nothing_else_that_it_can_change_makes_a_cause(honest: Any, refusal: Build) -> None:
    """Fewer survivors, another one's piece, another one's secret: a piece that does not decode would follow."""
    opening = Opening.decode(peek(request(honest, 1))[0])
    roots, selves, pieces = opening.roots, opening.self_secrets, opening.pieces
    fewer = survivors_statement(honest.ctx2, honest.survivors[:3], roots[:3])
    attempts = [
        {"statement": fewer, "roots": roots[:3], "self_secrets": selves[:3], "pieces": pieces[:3]},
        {"roots": (roots[1], roots[0], *roots[2:]), "pieces": (pieces[1], pieces[0], *pieces[2:])},
        {"pieces": (pieces[1], pieces[0], *pieces[2:])},
        {"self_secrets": (selves[1], selves[0], *selves[2:])},
        {"self_secrets": selves[:3], "pieces": pieces[:3]},
    ]
    codes = [refusal(honest.member(0).open, request(honest, 1, **changes)) for changes in attempts]
    assert codes == ["open.statement", "open.statement", "open.piece", "record.commitment", "record.secrets"]


def test_without_the_check_it_reads_a_piece_of_every_vector(honest: Any, without: Build) -> None:
    """What `open.sound` stops, and what an accomplice gains: this very piece, and not a word beside it."""
    without("open.sound")
    opening = Opening.decode(peek(request(honest, 1))[0])
    message = seal("opening", opening.encode(), honest.fed.coordinator_key)
    opened = {i: Opened.decode(peek(honest.member(i).open(message))[0]) for i in range(4)}
    encoding = honest.fed.encoding
    for i, words in own_words(honest, opening, opened).items():
        read = encoding.decode_part(words, PIECE_WORDS - CONTROL_WORDS, 1)
        assert all(
            np.allclose(values, honest.fed.vectors[i][first:][: len(values)], atol=1e-4) for first, values in read
        )
    other = replace(opening, number=2, pieces=tuple(honest.piece_of(i, 2) for i in range(4)))
    short = {
        i: replace(message, streams=tuple(s[: 8 * (50 + CONTROL_WORDS)] for s in message.streams))
        for i, message in opened.items()
    }
    for words in own_words(honest, other, short).values():
        with pytest.raises(Refused, match=r"sum\.range"):
            list(encoding.decode_part(words, 2 * PIECE_WORDS - CONTROL_WORDS, 1))


def own_words(round_: Any, opening: Opening, opened: dict[int, Opened]) -> dict[int, NDArray[np.uint64]]:
    """Each survivor's piece without the masks whose streams it gave away."""
    spoiled: Spoiled = round_.server._spoiled
    bare = check_opening(opening, spoiled, None)
    for i, message in opened.items():
        for peer, raw in zip(spoiled.others(i), message.streams, strict=True):
            (np.subtract if masking.pair_sign(i, peer) > 0 else np.add)(bare[i], np.frombuffer(raw, "<u8"), out=bare[i])
    return bare


def test_a_late_upload_is_no_part_of_an_opening(federation: Build, spoiled: Build, refusal: Build) -> None:
    """Organization 3 was said to be gone, then its words come: its mk is known, and nobody signed for its piece."""
    fed = federation(4, SIZE)
    inboxes: dict[int, bytes] = {}
    share = fed.share
    fed.share = lambda: inboxes.update(share()) or inboxes
    round_ = spoiled(fed, {}, gone=frozenset({3}))
    _, words = fed.organizations[3].mask(inboxes[3], fed.vectors[3], keep_seeds=True)
    round_.uploads[3] = words
    opening = Opening.decode(peek(request(round_, 1))[0])
    late = replace(
        opening,
        roots=(*opening.roots, bytes(32)),
        self_secrets=(*opening.self_secrets, bytes(32)),
        pieces=(*opening.pieces, round_.piece_of(3, 1)),
    )
    for i in (0, 1, 2):
        message = seal("opening", late.encode(), fed.coordinator_key)
        assert refusal(round_.member(i).open, message) == "open.statement"
        expected = "open.sound" if fed.suite is CLASSIC else "open.dropped"
        assert refusal(round_.member(i).open, request(round_, 1)) == expected
    assert refusal(fed.organizations[3].open, request(round_, 1)) == "phase"


def test_members_of_two_views_never_open_to_each_other(federation: Build, hostile: Build, refusal: Build) -> None:
    """The victim masked for another U2 than the others: it signs no survivors with them, and has nothing to open."""
    fed = federation(4, SIZE)
    inboxes = fed.share()
    split = hostile(fed).reinbox(inboxes[0], lambda parts: parts.pop(3))
    uploads = {0: fed.organizations[0].mask(split, fed.vectors[0], keep_seeds=True)}
    uploads |= {i: fed.organizations[i].mask(inboxes[i], fed.vectors[i], keep_seeds=True) for i in (1, 2, 3)}
    assert all(fed.coordinator.add_upload(i, *uploads[i]) for i in (1, 2, 3))
    bundle = fed.coordinator.close_uploads()
    assert refusal(fed.organizations[0].survive, bundle) == "survivors.context"
    assert refusal(fed.organizations[0].open, bundle) == "phase"


def test_an_accomplice_gets_one_piece_in_a_round(federation: Build, spoiled: Build, refusal: Build) -> None:
    """It spoils both pieces 1 and 2, and the coordinator asks for each: the second is refused, also after a restart."""

    def both(words: NDArray[np.uint64]) -> None:
        words[[PIECE_WORDS + 1, -1]] ^= np.uint64(1 << 63)

    round_ = spoiled(federation(4, SIZE), {1: both})
    for i, first, second in ((0, 1, 2), (2, 1, 2), (3, 2, 1)):
        round_.member(i).open(request(round_, first))
        assert refusal(round_.member(i).open, request(round_, second)) == "journal.conflict"


def test_noise_that_is_shared_is_never_opened(federation: Build, spoiled: Build, refusal: Build) -> None:
    def spoil(words: NDArray[np.uint64]) -> None:
        words[-1] ^= np.uint64(1 << 63)

    round_ = spoiled(federation(4, SIZE), {1: spoil}, kept=frozenset())
    for i in range(4):
        assert refusal(round_.member(i).open, request(round_, 2)) == "open.never"
