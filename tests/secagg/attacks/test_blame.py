"""Blame: who is left out after a dispute, who can be convicted, and who cannot be framed.

Attacker: a colluding organization that seals rubbish, or accuses an honest one of it; a server that forges proofs. Gain
without the rules: every attempt fails, or honest organizations are thrown out one by one. A complaint convicts nobody:
it decides whom the next attempt leaves out (`left_out`): as few as end every dispute, so never more than there are
liars. Liars choose the disputes, so the search for these few is bounded (`cover.MAX_NODES`). Two signed messages that
contradict each other convict, and nothing else does (`equivocation`, `blame.none`).
Source: the rules are this protocol's own; verifiable sharing (Feldman 1987) would turn disputes into proofs, at a cost.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from cotune.secagg.blame import COORDINATOR, equivocation, left_out
from cotune.secagg.messages import SEAL, Complaint, Reveal, Rooted
from cotune.secagg.plan import least_threshold
from cotune.secagg.refused import Refused
from cotune.secagg.wire import Writer, peek, seal

Build = Callable[..., Any]


def disputed(fed: Any) -> tuple[dict[int, bytes], bytes]:
    """Organization 2 seals rubbish for organization 0: inboxes, and the complaint of 0."""
    bundle = fed.advertise()
    colluder = fed.organizations[2]
    honest = colluder._seal
    colluder._seal = lambda view, peer, shares: (
        bytes(fed.suite.sealed_bytes) if peer == 0 else honest(view, peer, shares)
    )
    for i, organization in fed.organizations.items():
        assert fed.coordinator.add_shares(i, organization.share(bundle))
    inboxes = fed.coordinator.close_shares()
    with pytest.raises(Refused) as no:
        fed.organizations[0].mask(inboxes[0], fed.vectors[0])
    return inboxes, fed.organizations[0].complain(no.value)


def test_the_round_goes_on_without_the_one_that_complained(federation: Build) -> None:
    """It sends no upload and drops out; its complaint is kept and names both sides."""
    fed = federation(4)
    inboxes, complaint = disputed(fed)
    server = fed.coordinator
    assert server.add_complaint(0, complaint)
    assert server.complaints[0] == Complaint.decode(peek(complaint)[0])
    assert (server.complaints[0].accused, server.complaints[0].reason) == (2, SEAL)
    for i in (1, 2, 3):
        assert server.add_upload(i, *fed.organizations[i].mask(inboxes[i], fed.vectors[i]))
    bundle = server.close_uploads()
    for i in (1, 2, 3):
        assert server.add_survival(i, fed.organizations[i].survive(bundle))
    quorum = server.close_survival()
    for i in (1, 2, 3):
        server.add_reveal(i, fed.organizations[i].unmask(quorum))
    assert np.allclose(server.result().values, fed.vectors[1:].sum(axis=0), atol=1e-4)
    assert left_out(server.complaints.values(), 4, least_threshold(4)) == (2,)


def test_who_complained_is_done_with_this_attempt(federation: Build, refusal: Build) -> None:
    """No upload after a complaint, no second complaint, no secret kept."""
    fed = federation(4)
    inboxes, _ = disputed(fed)
    victim = fed.organizations[0]
    assert refusal(victim.mask, inboxes[0], fed.vectors[0]) == "phase"
    assert refusal(victim.complain, Refused("share.seal", "again", 2)) == "phase"
    assert not victim._state.secrets
    assert not victim._state.held
    with pytest.raises(ValueError, match="no ground"):
        fed.organizations[1].complain(Refused("shares.leaf", "the server did this", 2))


def test_complaints_that_are_not_kept(federation: Build) -> None:
    """Of another view, in another's name, about nobody or oneself, for no known reason, too early."""
    fed = federation(4)
    _, complaint = disputed(fed)
    own = Complaint.decode(peek(complaint)[0])
    server = fed.coordinator
    for body, key, code in (
        (replace(own, ctx1=b"x" * 32), 0, "message.context"),
        (replace(own, index=1), 1, "message.index"),
        (own, 1, "wire.signature"),
        (replace(own, accused=0), 0, "complaint.stranger"),
        (replace(own, accused=7), 0, "complaint.stranger"),
        (replace(own, reason=4), 0, "complaint.reason"),
    ):
        assert not server.add_complaint(0, seal("complaint", body.encode(), fed.keys[key]))
        assert server.rejections[-1].code == code
    assert not server.complaints
    early = federation(4)
    early.advertise()
    assert not early.coordinator.add_complaint(0, complaint)
    assert early.coordinator.rejections[-1].code == "message.late"


# What convicts


def pairs(fed: Any, seen: Any) -> Iterator[tuple[str, bytes, bytes, int]]:
    """Two contradicting messages of every kind: (kind, one, other, signer)."""

    def again(kind: str, envelope: bytes, key: Any) -> bytes:
        body = bytearray(peek(envelope)[0])
        body[-3] ^= 1  # the last two bytes of a reveal count shares
        return seal(kind, bytes(body), key)

    member = {
        "advert": seen.advert[1],
        "upload": seen.upload[1][0],
        "survive": seen.survival[1],
        "reveal": seen.reveal[1],
    }
    for kind, envelope in member.items():
        yield kind, envelope, again(kind, envelope, fed.keys[1]), 1
    shared = fed.organizations[1]._state.own_root
    yield "shares", shared, again("shares", shared, fed.keys[1]), 1
    for kind in ("adverts", "survivors", "quorum"):
        envelope = getattr(seen, kind)
        yield kind, envelope, again(kind, envelope, fed.coordinator_key), COORDINATOR
    other = fed.plan(deadline=2_001).sign(fed.coordinator_key)
    yield "plan", seen.plan, other, COORDINATOR
    yield "record", seen.outcome.record, again("record", seen.outcome.record, fed.coordinator_key), COORDINATOR


def test_two_contradicting_messages_convict_their_signer(federation: Build, witness: Build, refusal: Build) -> None:
    fed = federation(3)
    for kind, one, other, signer in pairs(fed, witness(fed)):
        assert equivocation(kind, one, other, fed.roster) == signer
        assert equivocation(kind, other, one, fed.roster) == signer
        assert refusal(equivocation, kind, one, one, fed.roster) == "blame.none"


def test_nobody_is_framed(federation: Build, witness: Build, refusal: Build) -> None:
    """By a forged message, one of another round, another signer or another kind."""
    fed = federation(3)
    seen = witness(fed)
    roster = fed.roster
    for kind, one, other, _ in pairs(fed, seen):
        body = peek(other)[0]
        assert refusal(equivocation, kind, one, seal(kind, body, fed.keys[2]), roster) == "wire.signature"
    for one, other in combinations(seen.survival.values(), 2):
        assert refusal(equivocation, "survive", one, other, roster) == "blame.none"
    own = Rooted.decode(peek(seen.survival[1])[0])
    later = seal("survive", Rooted(b"l" * 32, 1, own.root).encode(), fed.keys[1])
    assert refusal(equivocation, "survive", seen.survival[1], later, roster) == "blame.none"
    next_attempt = fed.plan(attempt=1).sign(fed.coordinator_key)
    assert refusal(equivocation, "plan", seen.plan, next_attempt, roster) == "blame.none"
    wrong_kind = seal("upload", own.encode(), fed.keys[1])
    assert refusal(equivocation, "survive", seen.survival[1], wrong_kind, roster) == "wire.signature"


def test_the_same_words_under_two_signatures_convict_nobody(federation: Build, witness: Build, refusal: Build) -> None:
    """ML-DSA signs at random: two signatures on one body are no contradiction."""
    fed = federation(3)
    seen = witness(fed)
    body, _ = peek(seen.reveal[1])
    assert Reveal.decode(body).index == 1
    again = bytes(Writer().blob(body).blob(peek(seal("reveal", body, fed.keys[1]))[1]))
    assert refusal(equivocation, "reveal", seen.reveal[1], again, fed.roster) == "blame.none"
