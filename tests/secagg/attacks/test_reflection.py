"""Reflection: an organization is shown its own messages, or one message over and over, as those of others.

Attacker: a coordinator with its genuine key, and for copied keys one colluding organization. Gain without the checks:
one honest signature counts as a whole quorum, so that conflicting statements need no second honest signer. Stopped by
the index inside each signed body, strictly increasing in each bundle (`*.order`), by distinct keys
(`adverts.duplicate`), and by the direction in the sealed boxes' keys.
Source: Bonawitz et al. 2017, section 6.2; Mitchell 1989 on reflection.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cotune.secagg.messages import Advert, decode_inbox
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]


def test_one_signature_as_a_quorum(federation: Build, hostile: Build, refusal: Build, without: Build) -> None:
    fed = federation(4)
    survivors = fed.upload()
    victim = fed.organizations[0]
    own = victim.survive(survivors)
    quorum = hostile(fed).bundle("quorum", victim.context, own, own, own)
    assert refusal(victim.unmask, quorum) == "quorum.order"
    without("quorum.order")
    assert victim.unmask(quorum)  # its shares, for a statement that nobody else may have signed


def test_own_advert_as_that_of_a_peer(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(4)
    bundle, victim = fed.advertise(), fed.organizations[0]
    assert refusal(victim.share, hostile(fed).swap("adverts", bundle, 1, victim.advert)) == "adverts.order"
    body = replace(Advert.decode(peek(victim.advert)[0]), index=1)
    for key in (fed.keys[1], fed.coordinator_key):  # organization 1 colludes and signs them; or nobody does
        mirrored = hostile(fed).swap("adverts", bundle, 1, seal("advert", body.encode(), key))
        assert refusal(victim.share, mirrored) == ("adverts.duplicate" if key is fed.keys[1] else "wire.signature")


@pytest.mark.parametrize("name", ["mask_key", "channel_key"])
def test_a_colluder_copies_one_key(federation: Build, hostile: Build, refusal: Build, name: str) -> None:
    """As its mask key or as its channel key; also one key of its own for both."""
    fed = federation(4)
    bundle = fed.advertise()
    other, own = (Advert.decode(peek(fed.organizations[i].advert)[0]) for i in (1, 2))
    twin = own.channel_key if name == "mask_key" else own.mask_key
    for copied in (other.mask_key, other.channel_key, twin):
        forged = seal("advert", replace(own, **{name: copied}).encode(), fed.keys[2])
        assert (
            refusal(fed.organizations[0].share, hostile(fed).swap("adverts", bundle, 2, forged)) == "adverts.duplicate"
        )


def test_own_box_comes_back(federation: Build, hostile: Build, refusal: Build) -> None:
    """What organization 0 sealed for 1, as what 1 sealed for 0: not under the root that 1 signed."""
    fed = federation(4)
    inboxes = fed.share()
    sent = decode_inbox(peek(inboxes[1])[0])[1][0]

    def mirror(parts: list[Any]) -> None:
        parts[1] = replace(parts[1], box=sent.box, path=sent.path)

    bad = hostile(fed).reinbox(inboxes[0], mirror)
    assert refusal(fed.organizations[0].mask, bad, fed.vectors[0]) == "shares.leaf"


def test_own_box_does_not_open_though_a_colluder_signed_it(
    federation: Build, hostile: Build, refusal: Build, without: Build
) -> None:
    """With the root's check off: the key and the associated data of a box know its direction."""
    fed = federation(4)
    inboxes = fed.share()
    sent = decode_inbox(peek(inboxes[1])[0])[1][0]
    bad = hostile(fed).reinbox(inboxes[0], lambda parts: parts.__setitem__(1, replace(parts[1], box=sent.box)))
    without("shares.leaf")
    assert refusal(fed.organizations[0].mask, bad, fed.vectors[0]) == "share.seal"


def test_own_root_as_that_of_a_peer(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(4)
    inboxes = fed.share()
    bad = hostile(fed).reinbox(inboxes[0], lambda parts: parts.__setitem__(1, parts[0]))
    assert refusal(fed.organizations[0].mask, bad, fed.vectors[0]) == "shares.order"


def test_own_upload_as_that_of_a_peer(federation: Build, hostile: Build, refusal: Build) -> None:
    """The victim's vector would be in the sum as often as the server likes."""
    fed = federation(4)
    bundle, victim = fed.upload(), fed.organizations[0]
    own = victim._state.header
    assert refusal(victim.survive, hostile(fed).swap("survivors", bundle, 1, own)) == "survivors.order"


def test_one_message_under_another_sender(federation: Build) -> None:
    """Organization 1 passes on what organization 0 sent. As a message of its own it counts in no phase."""
    fed = federation(4)

    def no(add: Callable[..., bool], *message: Any) -> None:
        assert not add(1, *message)
        assert server.rejections[-1].code == "message.index"

    server = fed.coordinator
    no(server.add_advert, fed.begin(0).advert)
    fed.journals = [type(journal)() for journal in fed.journals]
    bundle = fed.advertise()
    shares = {i: organization.share(bundle) for i, organization in fed.organizations.items()}
    no(server.add_shares, shares[0])
    assert all(server.add_shares(i, message) for i, message in shares.items())
    inboxes = server.close_shares()
    uploads = {i: fed.organizations[i].mask(inboxes[i], fed.vectors[i]) for i in range(4)}
    no(server.add_upload, *uploads[0])
    assert all(server.add_upload(i, *upload) for i, upload in uploads.items())
    bundle = server.close_uploads()
    signed = {i: organization.survive(bundle) for i, organization in fed.organizations.items()}
    no(server.add_survival, signed[0])
    assert all(server.add_survival(i, message) for i, message in signed.items())
    quorum = server.close_survival()
    no(server.add_reveal, fed.organizations[0].unmask(quorum))


def test_the_coordinator_counts_no_key_twice(federation: Build) -> None:
    """Neither one of another organization nor one key for both purposes, so that an honest round is not refused."""
    fed = federation(3)
    first, second = fed.begin(0), fed.begin(1)
    assert fed.coordinator.add_advert(0, first.advert)
    taken, own = (Advert.decode(peek(organization.advert)[0]) for organization in (first, second))
    for changes in ({"mask_key": taken.mask_key}, {"channel_key": taken.mask_key}, {"mask_key": own.channel_key}):
        forged = seal("advert", replace(own, **changes).encode(), fed.keys[1])
        assert not fed.coordinator.add_advert(1, forged)
        assert fed.coordinator.rejections[-1].code == "adverts.duplicate"
    assert fed.coordinator.add_advert(1, second.advert)
