"""A box that does not open: its recipient says so, gives nothing away, and the round goes on without it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cotune.secagg import keys, merkle
from cotune.secagg.messages import NONSENSE, OFFER, SEAL, Advert, Complaint, Rooted, Shares, decode_inbox, encode_inbox
from cotune.secagg.refused import Refused
from cotune.secagg.state import Phase, State
from cotune.secagg.suites import HYBRID
from cotune.secagg.views import box_leaves, share_root
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]
LIAR, VICTIM = 2, 0


def shares_with(fed: Any, honest: bytes, sealed: bytes, offer: bytes) -> bytes:
    """The liar's SHARES with another box for the victim, signed by the liar itself."""
    shares = Shares.decode(honest)
    ctx1 = Rooted.decode(peek(shares.root)[0]).context
    others = [i for i in range(fed.n) if i != LIAR]
    boxes = tuple(sealed + offer if to == VICTIM else sent for to, sent in zip(others, shares.boxes, strict=True))
    root = share_root(ctx1, LIAR, merkle.top(box_leaves(ctx1, LIAR, others, boxes)))
    return Shares(seal("shares", Rooted(ctx1, LIAR, root).encode(), fed.keys[LIAR]), boxes).encode()


def nonsense(fed: Any, honest: bytes) -> bytes:
    """Sealed shares that open and hold 132 bytes that are no shares."""
    ctx1 = Rooted.decode(peek(Shares.decode(honest).root)[0]).context
    secret = State.decode(fed.before).secrets[2]
    public = Advert.decode(peek(fed.organizations[VICTIM].advert)[0]).channel_key
    return keys.seal_share(fed.suite, secret, public, ctx1, LIAR, VICTIM, b"\xff" * 132)


def spoiled(fed: Any, honest: bytes, code: str) -> bytes:
    """The liar's SHARES so that the victim is refused with a code."""
    size, box = fed.suite.sealed_bytes, Shares.decode(honest).boxes[0]
    sealed = {"share.seal": bytes(size), "share.range": nonsense(fed, honest)}.get(code, box[:size])
    false = bytes([box[size] ^ 1]) + box[size + 1 :] if code == "share.offer" else box[size:]
    return shares_with(fed, honest, sealed, false)


REASONS = {"share.seal": SEAL, "share.range": NONSENSE, "share.offer": OFFER}


@pytest.fixture(params=REASONS)
def deceived(federation: Build, request: pytest.FixtureRequest) -> Any:
    """A federation of four in which the victim was refused in `mask`; `fed.no` is the refusal."""
    fed = federation(4)
    if request.param == "share.offer" and not fed.suite.kem_bytes:
        pytest.skip("nothing is offered in suite 1")
    adverts = fed.advertise()
    for i in range(4):
        fed.before = fed.organizations[i].dump()
        message = fed.organizations[i].share(adverts)
        if i == LIAR:
            message = spoiled(fed, message, request.param)
        assert fed.coordinator.add_shares(i, message)
    fed.organizations[LIAR]._state.own_root = fed.coordinator._shares[LIAR].root
    fed.inboxes = fed.coordinator.close_shares()
    fed.dump = fed.organizations[VICTIM].dump()
    with pytest.raises(Refused) as no:
        fed.organizations[VICTIM].mask(fed.inboxes[VICTIM], fed.vectors[VICTIM])
    assert (no.value.code, no.value.member) == (request.param, LIAR)
    fed.no = no.value
    return fed


def test_a_complaint_says_who_and_why_and_nothing_else(deceived: Any) -> None:
    fed = deceived
    body = peek(fed.organizations[VICTIM].complain(fed.no))[0]
    complaint = Complaint.decode(body)
    assert (complaint.index, complaint.accused, complaint.reason) == (VICTIM, LIAR, REASONS[fed.no.code])
    assert len(body) == 32 + 2 + 2 + 1


def test_after_it_no_secret_is_left_and_nothing_more_is_signed(deceived: Any) -> None:
    fed = deceived
    organization = fed.organizations[VICTIM]
    organization.complain(fed.no)
    state = State.decode(organization.dump())
    assert state.phase is Phase.DONE
    assert (state.secrets, state.offered, state.held) == ((), (), {})
    for call in (
        lambda: organization.mask(fed.inboxes[VICTIM], fed.vectors[VICTIM]),
        lambda: organization.complain(fed.no),
        lambda: organization.survive(b""),
        lambda: organization.unmask(b""),
        lambda: fed.reload(VICTIM).mask(fed.inboxes[VICTIM], fed.vectors[VICTIM]),
    ):
        with pytest.raises(Refused) as no:
            call()
        assert no.value.code == "phase"


def test_the_same_complaint_may_be_signed_again_and_no_other(deceived: Any) -> None:
    fed = deceived
    message = fed.organizations[VICTIM].complain(fed.no)
    again = fed.reload(VICTIM, fed.dump).complain(fed.no)
    assert peek(again)[0] == peek(message)[0]
    with pytest.raises(Refused) as no:
        fed.reload(VICTIM, fed.dump).complain(Refused("share.seal", "another", 1))
    assert no.value.code == "journal.conflict"


@pytest.mark.parametrize(
    "refusal", [Refused("shares.leaf", "", 2), Refused("vector.finite", ""), Refused("share.seal", "")]
)
def test_other_refusals_are_no_ground(deceived: Any, refusal: Refused) -> None:
    with pytest.raises(ValueError, match="no ground"):
        deceived.organizations[VICTIM].complain(refusal)


def test_the_round_goes_on_without_the_victim(deceived: Any) -> None:
    """Its mk is rebuilt as that of any dropout; the sum is that of the other three.

    A false offer is another matter: what the liar masked with is known to nobody else, so its upload cannot be opened.
    The round ends and the refusal names the liar.
    """
    fed = deceived
    assert fed.coordinator.add_complaint(VICTIM, fed.organizations[VICTIM].complain(fed.no))
    others = [i for i in range(4) if i != VICTIM]
    for i in others:
        assert fed.coordinator.add_upload(i, *fed.organizations[i].mask(fed.inboxes[i], fed.vectors[i]))
    survivors = fed.coordinator.close_uploads()
    for i in others:
        assert fed.coordinator.add_survival(i, fed.organizations[i].survive(survivors))
    quorum = fed.coordinator.close_survival()
    for i in others:
        assert fed.coordinator.add_reveal(i, fed.organizations[i].unmask(quorum))
    if fed.no.code == "share.offer":
        with pytest.raises(Refused) as no:
            fed.coordinator.result()
        assert (no.value.code, no.value.member) == ("share.offer", LIAR)
    else:
        assert np.allclose(fed.coordinator.result().values, fed.vectors[others].sum(axis=0), atol=1e-4)
    assert fed.coordinator.complaints[VICTIM].accused == LIAR


@pytest.mark.parametrize("suite", [HYBRID], ids=["hybrid"], indirect=True)
def test_a_false_wrapping_is_seen_only_when_its_sender_drops_out(federation: Build) -> None:
    """Suite 2: no recipient can check how the offered secret is wrapped for the server. Where its sender is needed no
    more the sum opens; where its sender drops out the round ends, and the refusal names it."""
    for gone in (False, True):
        fed = federation(4)
        adverts = fed.advertise()
        for i in range(4):
            message = fed.organizations[i].share(adverts)
            if i == LIAR:
                size, box = fed.suite.sealed_bytes, Shares.decode(message).boxes[0]
                at = size + fed.suite.ciphertext_bytes
                false = box[size:at] + bytes([box[at] ^ 1]) + box[at + 1 :]
                message = shares_with(fed, message, box[:size], false)
                fed.organizations[i]._state.own_root = Shares.decode(message).root
            assert fed.coordinator.add_shares(i, message)
        inboxes = fed.coordinator.close_shares()
        here = [i for i in range(4) if not gone or i != LIAR]
        for i in here:
            assert fed.coordinator.add_upload(i, *fed.organizations[i].mask(inboxes[i], fed.vectors[i]))
        survivors = fed.coordinator.close_uploads()
        for i in here:
            assert fed.coordinator.add_survival(i, fed.organizations[i].survive(survivors))
        quorum = fed.coordinator.close_survival()
        for i in here:
            assert fed.coordinator.add_reveal(i, fed.organizations[i].unmask(quorum))
        if gone:
            with pytest.raises(Refused) as no:
                fed.coordinator.result()
            assert (no.value.code, no.value.member) == ("share.offer", LIAR)
        else:
            assert fed.coordinator.result().survivors == (0, 1, 2, 3)


def test_complaint_and_upload_from_an_old_dump_give_no_second_secret(deceived: Any) -> None:
    """A restart from the dump before the complaint can still upload, if the server leaves the liar out of U2.

    The two statements do not contradict each other: the complaint is about ctx1, it holds no share and no key, and
    the upload is the one that the journal allows in this attempt.
    """
    fed = deceived
    fed.organizations[VICTIM].complain(fed.no)
    twin = fed.reload(VICTIM, fed.dump)
    hostile = without_sender(fed, fed.inboxes[VICTIM], LIAR)
    twin.mask(hostile, fed.vectors[VICTIM])
    with pytest.raises(Refused) as no:
        fed.reload(VICTIM, fed.dump).mask(hostile, -fed.vectors[VICTIM])
    assert no.value.code == "journal.conflict"
    assert LIAR not in State.decode(twin.dump()).held


def without_sender(fed: Any, inbox: bytes, sender: int) -> bytes:
    ctx1, parts = decode_inbox(peek(inbox)[0])
    return seal("inbox", encode_inbox(ctx1, tuple(p for i, p in enumerate(parts) if i != sender)), fed.coordinator_key)


@pytest.mark.parametrize(
    ("signer", "sender", "changes", "code"),
    [
        (1, 0, {}, "message.index"),
        (0, 0, {"accused": 0}, "complaint.stranger"),
        (0, 0, {"accused": 3}, "complaint.stranger"),
        (0, 0, {"ctx1": bytes(32)}, "message.context"),
        (3, 3, {}, "complaint.stranger"),
    ],
)
def test_complaints_that_are_not_kept(
    federation: Build, signer: int, sender: int, changes: dict[str, Any], code: str
) -> None:
    fed = federation(4)
    fed.share(absent=frozenset({3}))
    fields = {"ctx1": fed.coordinator._cohort.ctx1, "index": signer, "accused": 2, "reason": SEAL} | changes
    message = seal("complaint", Complaint(**fields).encode(), fed.keys[signer])
    assert not fed.coordinator.add_complaint(sender, message)
    assert fed.coordinator.rejections[-1].code == code
    assert not fed.coordinator.complaints


def test_a_complaint_before_or_after_its_phase(federation: Build) -> None:
    fed = federation(4)
    message = seal("complaint", Complaint(bytes(32), 0, 1, SEAL).encode(), fed.keys[0])
    assert not fed.coordinator.add_complaint(0, message)
    fed.survive()
    assert not fed.coordinator.add_complaint(0, message)
    assert [each.code for each in fed.coordinator.rejections] == ["message.late", "message.late"]


def test_a_complaint_has_a_known_reason() -> None:
    for reason in (0, 4, 255):
        with pytest.raises(Refused) as no:
            Complaint.decode(Complaint(bytes(32), 0, 1, reason).encode())
        assert no.value.code == "complaint.reason"
