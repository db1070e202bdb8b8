"""Proofs of equivocation, without a false conviction; and whom the next attempt leaves out."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from cotune.secagg.blame import COORDINATOR, equivocation, left_out
from cotune.secagg.coordinator import Coordinator
from cotune.secagg.messages import SEAL, Advert, Complaint, Reveal, Rooted, Shares, decode_list, encode_list
from cotune.secagg.opening import Opened, Opening
from cotune.secagg.plan import least_threshold
from cotune.secagg.record import RoundRecord
from cotune.secagg.refused import Refused
from cotune.secagg.wire import peek, seal
from hypothesis import given, settings
from hypothesis import strategies as st

Build = Callable[..., Any]
MEMBER_KINDS = ("advert", "shares", "upload", "survive", "reveal", "opened")
COORDINATOR_KINDS = ("plan", "adverts", "survivors", "quorum", "opening", "record")


def play(fed: Any) -> list[tuple[str, bytes]]:
    """One whole round; every signed envelope in it, with its kind."""
    said, server = [("plan", fed.coordinator.plan_message)], fed.coordinator
    adverts = fed.advertise()
    said += [("advert", organization.advert) for organization in fed.organizations.values()]
    said.append(("adverts", adverts))
    for i, organization in fed.organizations.items():
        message = organization.share(adverts)
        said.append(("shares", Shares.decode(message).root))
        server.add_shares(i, message)
    inboxes = server.close_shares()
    for i, organization in fed.organizations.items():
        header, words = organization.mask(inboxes[i], fed.vectors[i])
        said.append(("upload", header))
        server.add_upload(i, header, words)
    survivors = server.close_uploads()
    said.append(("survivors", survivors))
    for i, organization in fed.organizations.items():
        said.append(("survive", organization.survive(survivors)))
        server.add_survival(i, said[-1][1])
    quorum = server.close_survival()
    said.append(("quorum", quorum))
    for i, organization in fed.organizations.items():
        said.append(("reveal", organization.unmask(quorum)))
        server.add_reveal(i, said[-1][1])
    return [*said, ("record", server.result().record)]


def opened(spoilt: Any) -> list[tuple[str, bytes]]:
    """What is said in another round, whose sum organization 1 spoiled."""
    opening = spoilt.server.opening_request(spoilt.piece_of)
    return [("opening", opening), *(("opened", spoilt.member(i).open(opening)) for i in range(4))]


@pytest.fixture(scope="module")
def fed(federation: Build, spoiled: Build) -> Any:
    """Two honest attempts at one round: `first` up to its shares, `said` whole."""
    fed = federation(4)
    adverts = fed.advertise()
    fed.first = [("plan", fed.coordinator.plan_message), ("adverts", adverts)]
    fed.first += [("advert", organization.advert) for organization in fed.organizations.values()]
    for organization in fed.organizations.values():
        fed.first.append(("shares", Shares.decode(organization.share(adverts)).root))
    fed.coordinator = Coordinator(fed.roster, fed.plan(attempt=1), fed.coordinator_key)
    fed.said = play(fed)
    other = federation(4)
    other.keys, other.coordinator_key, other.roster = fed.keys, fed.coordinator_key, fed.roster
    fed.said += opened(spoiled(other, {1: lambda words: words.__ixor__(1)}))
    return fed


def one_of(fed: Any, kind: str) -> bytes:
    return next(message for found, message in fed.said if found == kind)


def otherwise(fed: Any, kind: str) -> bytes:
    """What the same signer might have signed in the place of the first message of a kind."""
    honest = one_of(fed, kind)
    body, key = peek(honest)[0], fed.keys[0]
    if kind == "advert":
        return seal(kind, replace(Advert.decode(body), commitment=bytes(32)).encode(), key)
    if kind in ("shares", "upload", "survive"):
        return seal(kind, replace(Rooted.decode(body), root=bytes(32)).encode(), key)
    if kind == "reveal":
        reveal = Reveal.decode(body)
        return seal(kind, replace(reveal, self_shares=(), mask_shares=reveal.self_shares).encode(), key)
    if kind == "opened":
        return seal(kind, replace(Opened.decode(body), number=1).encode(), key)
    if kind == "opening":
        return seal(kind, replace(Opening.decode(body), number=1).encode(), fed.coordinator_key)
    if kind == "plan":
        return fed.plan(attempt=1, deadline=3_000).sign(fed.coordinator_key)
    if kind == "record":
        return replace(RoundRecord.decode(body), head=bytes(32)).sign(fed.coordinator_key)
    context, envelopes = decode_list(body)
    return seal(kind, encode_list(context, envelopes[:-1]), fed.coordinator_key)


@pytest.mark.parametrize("kind", [*MEMBER_KINDS, *COORDINATOR_KINDS])
def test_two_contents_in_one_place_convict(fed: Any, kind: str) -> None:
    one, other = one_of(fed, kind), otherwise(fed, kind)
    guilty = 0 if kind in MEMBER_KINDS else COORDINATOR
    assert equivocation(kind, one, other, fed.roster) == guilty
    assert equivocation(kind, other, one, fed.roster) == guilty


@pytest.mark.parametrize("kind", [*MEMBER_KINDS, *COORDINATOR_KINDS])
def test_no_honest_message_convicts(fed: Any, kind: str) -> None:
    """All messages of two honest attempts at one round, each against each, itself included."""
    messages = [message for found, message in fed.first + fed.said if found == kind]
    for one in messages:
        for other in messages:
            with pytest.raises(Refused) as no:
                equivocation(kind, one, other, fed.roster)
            assert no.value.code == "blame.none"


@pytest.mark.parametrize("kind", MEMBER_KINDS)
def test_nobody_is_convicted_by_what_another_signed(fed: Any, kind: str) -> None:
    """A forgery in the name of organization 0, by another member or the coordinator."""
    one, body = one_of(fed, kind), peek(otherwise(fed, kind))[0]
    for forger in (fed.keys[1], fed.coordinator_key):
        with pytest.raises(Refused) as no:
            equivocation(kind, one, seal(kind, body, forger), fed.roster)
        assert no.value.code == "wire.signature"


@pytest.mark.parametrize("kind", COORDINATOR_KINDS)
def test_members_cannot_convict_the_coordinator(fed: Any, kind: str) -> None:
    body = peek(otherwise(fed, kind))[0]
    with pytest.raises(Refused) as no:
        equivocation(kind, one_of(fed, kind), seal(kind, body, fed.keys[0]), fed.roster)
    assert no.value.code == "wire.signature"


def test_a_message_of_one_kind_is_none_of_another(fed: Any) -> None:
    """Roots, headers and statements have one form; the kind is signed with them."""
    for one, other in combinations(("shares", "upload", "survive"), 2):
        with pytest.raises(Refused) as no:
            equivocation(one, one_of(fed, one), one_of(fed, other), fed.roster)
        assert no.value.code == "wire.signature"


def test_two_attempts_and_two_upload_contexts_are_no_contradiction(fed: Any) -> None:
    """An organization may share again in a later attempt: the context is another."""
    body = Rooted.decode(peek(one_of(fed, "shares"))[0])
    later = seal("shares", replace(body, context=bytes(32), root=bytes(32)).encode(), fed.keys[0])
    with pytest.raises(Refused, match=r"blame\.none"):
        equivocation("shares", one_of(fed, "shares"), later, fed.roster)


def test_inboxes_and_complaints_convict_nobody(fed: Any) -> None:
    """One coordinator signs a different inbox for each recipient, and a complaint is one side of a dispute."""
    one = seal("complaint", Complaint(bytes(32), 0, 1, SEAL).encode(), fed.keys[0])
    for kind in ("inbox", "complaint", "nonsense"):
        with pytest.raises(Refused):
            equivocation(kind, one, one, fed.roster)


# Whom the next attempt leaves out.


def complaints(disputes: set[tuple[int, int]]) -> list[Complaint]:
    return [Complaint(bytes(32), accuser, accused, SEAL) for accuser, accused in sorted(disputes)]


@st.composite
def quarrels(draw: st.DrawFn) -> tuple[int, set[tuple[int, int]], set[int]]:
    """n, disputes and the liars: at most n - t members who accuse anybody and whom honest ones accuse or not."""
    n = draw(st.integers(3, 12))
    liars = draw(st.sets(st.integers(0, n - 1), max_size=n - least_threshold(n)))
    pairs = [(a, b) for a in range(n) for b in range(n) if a != b and (a in liars or b in liars)]
    return n, draw(st.sets(st.sampled_from(pairs))) if pairs else set(), liars


anything = st.integers(3, 12).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda pair: pair[0] != pair[1])),
    )
)


@settings(max_examples=150, deadline=None)
@given(anything)
def test_no_dispute_is_left_inside_and_no_bystander_is_left_out(quarrel: tuple[int, set[tuple[int, int]]]) -> None:
    n, disputes = quarrel
    out = left_out(complaints(disputes), n, least_threshold(n))
    assert list(out) == sorted(set(out))
    assert all(out_of in {member for pair in disputes for member in pair} for out_of in out)
    assert all(set(out) & set(pair) for pair in disputes)


@settings(max_examples=200, deadline=None)
@given(quarrels())
def test_one_liar_costs_one_member_at_most_and_who_is_accused_by_many_goes(
    quarrel: tuple[int, set[tuple[int, int]], set[int]],
) -> None:
    """What holds with at most n - t liars, when honest members never accuse each other: one liar costs one member at
    most; and whoever more members accuse than there can be liars is a liar and goes."""
    n, disputes, liars = quarrel
    out = set(left_out(complaints(disputes), n, least_threshold(n)))
    if len(liars) <= 1:
        assert len(out) <= 1
    mostly = {b for b in range(n) if sum(1 for a, accused in disputes if accused == b) > n - least_threshold(n)}
    assert mostly <= out
    assert mostly <= liars


def test_more_accusers_than_there_can_be_liars_leave_out_the_accused() -> None:
    """n = 7, t = 5: three accusers of organization 6 are enough, whatever it says of them."""
    disputes = {(0, 6), (1, 6), (2, 6), (6, 0), (6, 1), (6, 3), (6, 4)}
    assert left_out(complaints(disputes), 7, 5) == (6,)


def test_one_word_against_another_leaves_out_the_accused() -> None:
    assert left_out(complaints({(0, 1)}), 4, 3) == (1,)
    assert left_out(complaints({(1, 0)}), 4, 3) == (0,)
    assert left_out(complaints({(0, 1), (1, 0)}), 4, 3) == (0,)


def test_the_word_of_a_member_that_withheld_something_counts_against_it() -> None:
    """Only where it stands against another word: what is left out never grows."""
    assert left_out(complaints({(3, 0)}), 4, 3, withheld=(3,)) == (3,)
    assert left_out(complaints({(3, 0)}), 4, 3, withheld=(1, 2)) == (0,)
    assert left_out(complaints({(3, 0)}), 4, 3, withheld=(0, 3)) == (0,)
    assert left_out(complaints({(0, 3), (3, 0)}), 4, 3, withheld=(3,)) == (3,)
    # Six members that a liar's boxes were of no use to do not go because they fell silent once.
    many = {(accuser, 6) for accuser in range(6)}
    assert left_out(complaints(many), 7, 5, withheld=range(6)) == (6,)


def test_one_liar_may_push_out_one_honest_member_and_not_two() -> None:
    """What does not hold: with one liar of four, an honest member can be the one that goes. With two accusations the
    liar stands in most disputes and goes itself."""
    assert left_out(complaints({(3, 0)}), 4, 3) == (0,)
    assert left_out(complaints({(3, 0), (3, 1)}), 4, 3) == (3,)


def test_two_liars_may_push_out_an_honest_member_each() -> None:
    """n = 7, t = 5. Each liar accuses another member, so no liar stands in more disputes than its victim."""
    assert left_out(complaints({(5, 0), (6, 1)}), 7, 5) == (0, 1)


def test_without_a_complaint_nobody_is_left_out() -> None:
    assert left_out([], 4, 3) == ()
