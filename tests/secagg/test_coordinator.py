"""A bad message leaves its sender out, never the round."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.secagg.collecting import Step
from cotune.secagg.coordinator import Coordinator
from cotune.secagg.messages import Advert, Reveal, Rooted, Shares
from cotune.secagg.refused import Refused
from cotune.secagg.wire import peek, seal
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Build = Callable[..., Any]


def last_code(fed: Any) -> str:
    return str(fed.coordinator.rejections[-1].code)


def test_garbage_in_every_phase_from_one_of_four(federation: Build) -> None:
    fed = federation(4)
    server = fed.coordinator
    assert not server.add_advert(3, b"")
    adverts = fed.advertise(frozenset({3}))
    assert not server.add_shares(3, b"\x00" * 500)
    for i in range(3):
        assert server.add_shares(i, fed.organizations[i].share(adverts))
    inboxes = server.close_shares()
    assert not server.add_upload(3, b"\xff" * 70, np.zeros(3, dtype=np.uint64))
    for i in range(3):
        assert server.add_upload(i, *fed.organizations[i].mask(inboxes[i], fed.vectors[i]))
    bundle = server.close_uploads()
    assert not server.add_survival(3, b"x")
    for i in range(3):
        assert server.add_survival(i, fed.organizations[i].survive(bundle))
    quorum = server.close_survival()
    assert not server.add_reveal(3, b"x")
    for i in range(3):
        assert server.add_reveal(i, fed.organizations[i].unmask(quorum))
    assert server.result().survivors == (0, 1, 2)
    assert {rejection.index for rejection in server.rejections} == {3}
    assert [rejection.step for rejection in server.rejections] == list(Step)[:5]


def test_sender_and_signer_are_the_same(federation: Build) -> None:
    fed = federation(3)
    assert not fed.coordinator.add_advert(1, fed.begin(0).advert)
    assert last_code(fed) == "message.index"


def test_the_same_message_counts_once_and_a_second_one_never(federation: Build) -> None:
    fed = federation(3)
    fed.share()
    header, words = fed.organizations[0].mask(fed.inboxes[0], fed.vectors[0])
    assert fed.coordinator.add_upload(0, header, words)
    before = fed.coordinator._sum.copy()
    assert fed.coordinator.add_upload(0, header, words)
    assert np.array_equal(fed.coordinator._sum, before)
    other = seal("upload", Rooted(fed.organizations[0].context, 0, b"x" * 32).encode(), fed.keys[0])
    assert not fed.coordinator.add_upload(0, other, words)
    assert last_code(fed) == "message.second"


def test_advert_with_a_used_or_weak_key(federation: Build) -> None:
    fed = federation(3)
    first, second = fed.begin(0), fed.begin(1)
    assert fed.coordinator.add_advert(0, first.advert)
    taken = Advert.decode(peek(first.advert)[0]).mask_key
    own = Advert.decode(peek(second.advert)[0])
    for key, code in (
        (taken, "adverts.duplicate"),
        (bytes(len(taken)), "keys.public"),
        (taken[:-1], "keys.public"),
        (own.channel_key, "adverts.duplicate"),
    ):
        bad = seal("advert", replace(own, mask_key=key).encode(), fed.keys[1])
        assert not fed.coordinator.add_advert(1, bad)
        assert last_code(fed) == code
    assert fed.coordinator.add_advert(1, second.advert)


def test_shares_that_were_not_signed(federation: Build) -> None:
    fed = federation(3)
    bundle = fed.advertise()
    shares = Shares.decode(fed.organizations[0].share(bundle))
    first, second = shares.boxes
    for boxes, code in (
        ((bytes(len(first)), second), "shares.root"),
        ((second, first), "shares.root"),
        ((first,), "shares.size"),
        ((first, second, second), "shares.size"),
        ((first[:-1], second), "shares.size"),
    ):
        assert not fed.coordinator.add_shares(0, replace(shares, boxes=boxes).encode())
        assert last_code(fed) == code


def test_words_that_were_not_signed_are_not_added(federation: Build) -> None:
    fed = federation(3)
    inboxes = fed.share()
    header, words = fed.organizations[0].mask(inboxes[0], fed.vectors[0])
    altered = words.copy()
    altered[-1] ^= np.uint64(1)
    for bad, code in (
        (altered, "upload.root"),
        (words[:-1], "upload.shape"),
        (words.astype(np.int64), "upload.shape"),
        (np.stack([words, words], axis=1)[:, 0], "upload.shape"),
    ):
        assert not fed.coordinator.add_upload(0, header, bad)
        assert last_code(fed) == code
    assert not fed.coordinator._sum.any()
    assert fed.coordinator.add_upload(0, header, words)


def test_a_late_upload_is_neither_added_nor_opened(federation: Build) -> None:
    """Organization 3 is too late: its mk is rebuilt, its b is not, and what it sent stays masked by b."""
    fed = federation(4)
    inboxes = fed.share()
    late = fed.organizations[3].mask(inboxes[3], fed.vectors[3])
    server = fed.coordinator
    for i in range(3):
        server.add_upload(i, *fed.organizations[i].mask(inboxes[i], fed.vectors[i]))
    bundle = server.close_uploads()
    assert not server.add_upload(3, *late)
    assert last_code(fed) == "message.late"
    for i in range(3):
        server.add_survival(i, fed.organizations[i].survive(bundle))
    quorum = server.close_survival()
    for i in range(3):
        reveal = fed.organizations[i].unmask(quorum)
        assert 3 not in dict(Reveal.decode(peek(reveal)[0]).self_shares)
        server.add_reveal(i, reveal)
    outcome = server.result()
    assert outcome.survivors == (0, 1, 2)
    assert np.allclose(outcome.values, fed.vectors[:3].sum(axis=0), atol=1e-4)
    with pytest.raises(Refused):
        fed.organizations[3].survive(bundle)


def reveals(fed: Any) -> dict[int, bytes]:
    quorum = fed.survive()
    return {i: fed.organizations[i].unmask(quorum) for i in range(fed.n)}


@pytest.mark.parametrize("liars", [{0}, {3}, {1, 4}, {2, 6}])
def test_a_wrong_share_names_who_shows_it(federation: Build, liars: set[int]) -> None:
    """Every share but an owner's own was committed to under the owner's signature, so a false one never counts."""
    fed = federation(7)
    messages = reveals(fed)
    for liar in liars:
        lie = Reveal.decode(peek(messages[liar])[0])
        shares = tuple((owner, value ^ (owner != liar)) for owner, value in lie.self_shares)
        assert not fed.coordinator.add_reveal(
            liar, seal("reveal", replace(lie, self_shares=shares).encode(), fed.keys[liar])
        )
        assert (last_code(fed), fed.coordinator.rejections[-1].index) == ("reveal.share", liar)
    assert all(fed.coordinator.add_reveal(i, message) for i, message in messages.items() if i not in liars)
    assert np.allclose(fed.coordinator.result().values, fed.vectors.sum(axis=0), atol=1e-4)


def test_a_wrong_share_of_a_dropped_mask_secret_names_who_shows_it(federation: Build) -> None:
    fed = federation(4)
    quorum = fed.survive(frozenset({3}))
    honest = Reveal.decode(peek(fed.organizations[0].unmask(quorum))[0])
    lie = replace(honest, mask_shares=((3, honest.mask_shares[0][1] ^ 1),))
    assert not fed.coordinator.add_reveal(0, seal("reveal", lie.encode(), fed.keys[0]))
    assert last_code(fed) == "reveal.share"


def test_a_false_share_of_the_own_secret_is_not_needed(federation: Build) -> None:
    """Nobody committed to an owner's own share. A false one is passed over where t others answer, else it names it."""
    fed = federation(4)
    messages = reveals(fed)
    lie = Reveal.decode(peek(messages[0])[0])
    shares = tuple((owner, value ^ (owner == 0)) for owner, value in lie.self_shares)
    fed.coordinator.add_reveal(0, seal("reveal", replace(lie, self_shares=shares).encode(), fed.keys[0]))
    fed.coordinator.add_reveal(1, messages[1])
    fed.coordinator.add_reveal(2, messages[2])
    with pytest.raises(Refused) as no:
        fed.coordinator.result()
    assert (no.value.code, no.value.member) == ("unmask.secret", 0)
    fed.coordinator.add_reveal(3, messages[3])
    assert np.allclose(fed.coordinator.result().values, fed.vectors.sum(axis=0), atol=1e-4)


def test_reveals_for_other_owners_or_survivors(federation: Build) -> None:
    fed = federation(4)
    honest = Reveal.decode(peek(reveals(fed)[0])[0])
    for bad, code in (
        (replace(honest, self_shares=honest.self_shares[1:]), "reveal.owners"),
        (replace(honest, statement=b"x" * 32), "reveal.statement"),
        (replace(honest, index=1), "message.index"),
    ):
        assert not fed.coordinator.add_reveal(0, seal("reveal", bad.encode(), fed.keys[bad.index]))
        assert last_code(fed) == code


def test_masks_that_do_not_cancel_are_noticed_before_decoding(federation: Build) -> None:
    fed = federation(3)
    for i, message in reveals(fed).items():
        fed.coordinator.add_reveal(i, message)
    fed.coordinator._sum[3] += np.uint64(1)
    with pytest.raises(Refused) as no:
        fed.coordinator.result()
    assert no.value.code == "sum.control"


def test_the_key_must_be_the_one_in_the_roster(federation: Build) -> None:
    fed = federation(3)
    with pytest.raises(Refused) as no:
        Coordinator(fed.roster, fed.plan(), Ed25519PrivateKey.generate())
    assert no.value.code == "coordinator.key"
