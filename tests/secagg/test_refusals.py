"""Refusals that no attack needs, and halves of conditions behind which another half stands: one test for each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.secagg import keys, merkle, shamir, transcript
from cotune.secagg.audit import audit_piece
from cotune.secagg.collecting import Step
from cotune.secagg.encoding import Encoding
from cotune.secagg.messages import (
    OFFER,
    Advert,
    Complaint,
    Reveal,
    decode_inbox,
    decode_list,
    encode_inbox,
    encode_list,
)
from cotune.secagg.pieces import Piece, piece_of
from cotune.secagg.record import RoundRecord, genesis, verify
from cotune.secagg.refused import Refused
from cotune.secagg.wire import MAX_MESSAGE, Writer, peek, seal
from numpy.typing import NDArray

Build = Callable[..., Any]


def code_of(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(Refused) as no:
        call(*arguments)
    return no.value.code


@pytest.mark.parametrize("point", [-1, 0, shamir.PRIME, shamir.PRIME + 1])
def test_no_share_stands_where_the_secret_does(point: int) -> None:
    """The polynomial's value at any multiple of the prime is the secret itself."""
    with pytest.raises(ValueError, match="points"):
        shamir.split(b"s" * 32, 1, [1, point])


@pytest.mark.parametrize("size", [1, 2, 10])
def test_a_sum_of_another_length_is_not_decoded(size: int) -> None:
    encoding = Encoding(((12, 1.0),), 5, 21)
    good = np.zeros(encoding.words, dtype=np.uint64)
    encoding.encode(np.zeros(12), good)
    assert encoding.decode(good, 1).shape == (12,)
    assert code_of(encoding.decode, np.resize(good, size), 1) == "sum.range"
    assert code_of(encoding.decode, good[:, None], 1) == "sum.range"


@pytest.mark.parametrize("contributions", [-1, 0, 6])
def test_a_sum_has_one_contribution_at_least_and_one_of_each_party_at_most(contributions: int) -> None:
    encoding = Encoding(((12, 1.0),), 5, 21)
    assert code_of(encoding.decode, np.zeros(encoding.words, dtype=np.uint64), contributions) == "sum.range"


def test_a_message_counts_for_the_one_that_signed_it(federation: Build) -> None:
    """What 1 signed is not taken from 0. Nothing else would show it of a survivors' signature."""
    fed = federation(3)
    server, adverts = fed.coordinator, fed.advertise()
    one = fed.organizations[1]
    shares = {i: organization.share(adverts) for i, organization in fed.organizations.items()}
    assert not server.add_shares(0, shares[1])
    assert all(server.add_shares(i, message) for i, message in shares.items())
    inboxes = server.close_shares()
    uploads = {i: fed.organizations[i].mask(inboxes[i], fed.vectors[i]) for i in range(3)}
    assert not server.add_upload(0, *uploads[1])
    assert all(server.add_upload(i, *upload) for i, upload in uploads.items())
    signature = one.survive(server.close_uploads())
    assert not server.add_survival(0, signature)
    assert server.present(Step.SURVIVALS) == ()
    assert server.add_survival(1, signature)
    assert [rejection.code for rejection in server.rejections] == ["message.index"] * 3


@pytest.mark.parametrize("change", [lambda key: key + b"x", lambda key: key[:-1], lambda key: b""])
def test_two_keys_of_one_wrong_size(federation: Build, change: Callable[[bytes], bytes]) -> None:
    """Of the same size, so that only the suite tells."""
    fed = federation(3)
    context, adverts = decode_list(peek(fed.advertise())[0])
    own = Advert.decode(peek(adverts[1])[0])
    bent = replace(own, mask_key=change(own.mask_key), channel_key=change(own.channel_key))
    envelopes = (adverts[0], seal("advert", bent.encode(), fed.keys[1]), adverts[2])
    bad = seal("adverts", encode_list(context, envelopes), fed.coordinator_key)
    assert code_of(fed.organizations[0].share, bad) == "adverts.key"


def test_a_field_is_written_in_its_size_or_not_at_all() -> None:
    for value in (b"", b"abc", b"abcde"):
        with pytest.raises(ValueError, match="field of 4"):
            Writer().fixed(value, 4)
    with pytest.raises(OverflowError):
        Writer().uint(256, 1)
    assert bytes(Writer().fixed(b"abcd", 4).uint(255, 1)) == b"abcd\xff"


@pytest.mark.parametrize("extra", [{"box": b"x"}, {"path": (bytes(32),)}])
def test_the_own_part_of_an_inbox_is_a_root_alone(federation: Build, extra: dict[str, Any]) -> None:
    fed = federation(3)
    inbox = fed.share()[0]
    context, parts = decode_inbox(peek(inbox)[0])
    own, *others = parts
    bad = seal("inbox", encode_inbox(context, (replace(own, **extra), *others)), fed.coordinator_key)
    assert code_of(fed.organizations[0].mask, bad, fed.vectors[0]) == "shares.own"
    fed.organizations[0].mask(inbox, fed.vectors[0])


def test_a_reveal_holds_a_share_of_each_dropped_organization_and_of_no_other(federation: Build) -> None:
    fed = federation(4)
    quorum = fed.survive(frozenset({3}))
    honest = Reveal.decode(peek(fed.organizations[0].unmask(quorum))[0])
    [(dropped, share)] = honest.mask_shares
    for mask_shares in ((), ((dropped, share), (dropped + 1, share))):
        bad = replace(honest, mask_shares=mask_shares)
        assert not fed.coordinator.add_reveal(0, seal("reveal", bad.encode(), fed.keys[0]))
        assert fed.coordinator.rejections[-1].code == "reveal.owners"
    assert fed.coordinator.add_reveal(0, seal("reveal", honest.encode(), fed.keys[0]))


def test_a_record_reveals_each_secret_of_each_list_once(federation: Build) -> None:
    fed = federation(4)
    outcome, run, head = fed.play({3: 2}), fed.plan().run, genesis(fed.plan().run, fed.roster)
    record = RoundRecord.decode(peek(outcome.record)[0])
    for name in ("self_secrets", "mask_secrets", "agreements"):
        value = getattr(record, name)
        for bad in (value[1:], (*value, value[0])):
            forged = replace(record, **{name: bad}).sign(fed.coordinator_key)
            assert code_of(verify, forged, fed.roster, run, head) == "record.secrets"


@pytest.fixture(scope="module")
def kept(federation: Build) -> Any:
    """A round whose uploads were kept."""
    fed = federation(3)
    inboxes = fed.share()
    fed.uploads = {i: fed.organizations[i].mask(inboxes[i], fed.vectors[i]) for i in range(3)}
    assert all(fed.coordinator.add_upload(i, *upload) for i, upload in fed.uploads.items())
    survivors = fed.coordinator.close_uploads()
    for i in fed.coordinator.present(Step.UPLOADS):
        fed.coordinator.add_survival(i, fed.organizations[i].survive(survivors))
    quorum = fed.coordinator.close_survival()
    for i in fed.coordinator.present(Step.SURVIVALS):
        fed.coordinator.add_reveal(i, fed.organizations[i].unmask(quorum))
    fed.outcome = fed.coordinator.result()
    plan = fed.plan()
    fed.verified = verify(fed.outcome.record, fed.roster, plan.run, plan.prev_head)
    return fed


@pytest.mark.parametrize(
    "form",
    [
        lambda words: words.view(np.int64),
        lambda words: words.view(">u8"),
        lambda words: words.view(np.float64),
        lambda words: words[:, None],
        lambda words: words[:-1],
        lambda words: np.repeat(words, 2)[::2],
        lambda words: words[:0],
    ],
)
def test_a_kept_piece_of_another_form_is_refused(kept: Any, form: Callable[[NDArray[np.uint64]], Any]) -> None:
    """Some of these forms have the very bytes that were signed."""
    ctx2 = kept.verified.ctx2
    uploads = {i: piece_of(words, 0, ctx2, i) for i, (_, words) in kept.uploads.items()}
    result = piece_of(kept.outcome.words, 0, ctx2, merkle.SUM)
    audit_piece(kept.verified, 0, uploads, result)
    bent = Piece(form(uploads[1].words), uploads[1].path)
    assert code_of(audit_piece, kept.verified, 0, uploads | {1: bent}, result) == "audit.upload"
    bent = Piece(form(result.words), result.path)
    assert code_of(audit_piece, kept.verified, 0, uploads, bent) == "audit.sum"


@pytest.mark.parametrize(("size", "code"), [(MAX_MESSAGE, "truncated"), (MAX_MESSAGE + 1, "format")])
def test_a_record_larger_than_any_is_not_read(tmp_path: Path, size: int, code: str) -> None:
    path = tmp_path / "transcript"
    path.write_bytes(transcript.encode([]) + size.to_bytes(4, "big"))
    assert code_of(list, transcript.read(path)) == f"transcript.{code}"


def test_shares_that_their_sender_did_not_commit_to(federation: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """They open, they are two shares, and nobody could be convicted by them later."""
    fed = federation(3)
    bundle = fed.advertise()
    honest = keys.share_commitments
    with monkeypatch.context() as patch:
        patch.setattr(keys, "share_commitments", lambda *args: honest(*args)[::-1])
        messages = {2: fed.organizations[2].share(bundle)}
    messages |= {i: fed.organizations[i].share(bundle) for i in (0, 1)}
    assert all(fed.coordinator.add_shares(i, message) for i, message in messages.items())
    inboxes = fed.coordinator.close_shares()
    with pytest.raises(Refused) as no:
        fed.organizations[0].mask(inboxes[0], fed.vectors[0])
    assert (no.value.code, no.value.member) == ("share.range", 2)


@pytest.mark.parametrize(("value", "good"), [(shamir.PRIME - 1, True), (shamir.PRIME, False), (2**528 - 1, False)])
def test_a_share_lies_in_the_field(value: int, good: bool) -> None:
    body = bytes(Writer().fixed(bytes(32), 32).uint(0, 2).indices((1,)).uint(value, shamir.SHARE_BYTES).indices(()))
    if good:
        assert Reveal.decode(body).self_shares == ((1, value),)
    else:
        assert code_of(Reveal.decode, body) == "share.range"


def test_a_complaint_about_an_offer_needs_a_suite_with_offers(federation: Build) -> None:
    fed = federation(4)
    fed.share()
    ctx1 = fed.coordinator._cohort.ctx1
    message = seal("complaint", Complaint(ctx1, 0, 2, OFFER).encode(), fed.keys[0])
    assert fed.coordinator.add_complaint(0, message) == bool(fed.suite.kem_bytes)
    if not fed.suite.kem_bytes:
        assert fed.coordinator.rejections[-1].code == "complaint.reason"
