"""What an organization refuses when the coordinator, with its genuine key, lies."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import keys
from cotune.secagg.coordinator import Coordinator, Step
from cotune.secagg.messages import (
    Advert,
    Inbound,
    Reveal,
    Rooted,
    decode_inbox,
    decode_list,
    encode_inbox,
    encode_list,
)
from cotune.secagg.plan import Plan
from cotune.secagg.refused import Refused
from cotune.secagg.views import leaf, share_root
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]


def body_of(bundle: bytes) -> bytes:
    return peek(bundle)[0]


def resealed_list(fed: Any, kind: str, bundle: bytes, change: Callable[[list[bytes]], object]) -> bytes:
    """The bundle with its envelopes changed and the coordinator's signature renewed."""
    context, envelopes = decode_list(body_of(bundle))
    altered = list(envelopes)
    change(altered)
    return seal(kind, encode_list(context, tuple(altered)), fed.coordinator_key)


def resealed_inbox(fed: Any, bundle: bytes, sender: int, **changes: object) -> bytes:
    context, parts = decode_inbox(body_of(bundle))
    altered = [replace(part, **changes) if i == sender else part for i, part in enumerate(parts)]  # type: ignore[arg-type]
    return seal("inbox", encode_inbox(context, tuple(altered)), fed.coordinator_key)


def code_of(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(Refused) as no:
        call(*arguments)
    return no.value.code


def forged_advert(fed: Any, who: int, key: Any, **changes: object) -> bytes:
    own = Advert.decode(body_of(fed.organizations[who].advert))
    return seal("advert", replace(own, **changes).encode(), key)  # type: ignore[arg-type]


# P1


def test_man_in_the_middle_keys(federation: Build) -> None:
    """The server replaces one organization's keys: it cannot sign for it."""
    fed = federation(4)
    bundle = fed.advertise()
    mine = keys.public_half(keys.new_secret())
    forged = forged_advert(fed, 1, fed.coordinator_key, mask_key=mine)
    bad = resealed_list(fed, "adverts", bundle, lambda a: a.__setitem__(1, forged))
    assert code_of(fed.organizations[0].share, bad) == "wire.signature"


def test_own_advert_must_be_intact(federation: Build) -> None:
    fed = federation(4)
    bundle = fed.advertise()
    bad = resealed_list(fed, "adverts", bundle, lambda a: a.pop(0))
    assert code_of(fed.organizations[0].share, bad) == "adverts.own"
    other = forged_advert(fed, 0, fed.keys[0], mask_key=keys.public_half(keys.new_secret()))
    bad = resealed_list(fed, "adverts", bundle, lambda a: a.__setitem__(0, other))
    assert code_of(fed.organizations[0].share, bad) == "adverts.own"


@pytest.mark.parametrize("name", ["mask_key", "channel_key"])
def test_duplicate_keys(federation: Build, name: str) -> None:
    """Organization 2 colludes and copies a key of organization 1 (reflection)."""
    fed = federation(4)
    bundle = fed.advertise()
    copied = Advert.decode(body_of(fed.organizations[1].advert)).mask_key
    forged = forged_advert(fed, 2, fed.keys[2], **{name: copied})
    bad = resealed_list(fed, "adverts", bundle, lambda a: a.__setitem__(2, forged))
    assert code_of(fed.organizations[0].share, bad) == "adverts.duplicate"
    assert fed.coordinator.step is Step.SHARES


def test_one_organization_cannot_stand_twice(federation: Build) -> None:
    fed = federation(4)
    bundle = fed.advertise()
    bad = resealed_list(fed, "adverts", bundle, lambda a: a.__setitem__(2, a[1]))
    assert code_of(fed.organizations[0].share, bad) == "adverts.order"


def test_adverts_below_the_threshold(federation: Build) -> None:
    fed = federation(4)
    bad = resealed_list(fed, "adverts", fed.advertise(), lambda a: a.__delitem__(slice(2, 4)))
    assert code_of(fed.organizations[0].share, bad) == "adverts.too_few"


def test_adverts_of_another_attempt(federation: Build) -> None:
    """Replay: adverts that were honestly signed under an earlier plan."""
    fed = federation(4)
    fed.advertise()
    old = fed.organizations[1].advert
    fed.coordinator = Coordinator(fed.roster, fed.plan(attempt=1), fed.coordinator_key)
    fed.organizations = {i: fed.begin(i, last=(1, 0)) for i in range(4)}
    assert not fed.coordinator.add_advert(1, old)
    for i, organization in fed.organizations.items():
        assert fed.coordinator.add_advert(i, organization.advert)
    bad = resealed_list(fed, "adverts", fed.coordinator.close_adverts(), lambda a: a.__setitem__(1, old))
    assert code_of(fed.organizations[0].share, bad) == "adverts.context"


def test_a_stranger_is_not_in_the_roster(federation: Build) -> None:
    fed = federation(3)
    bundle = fed.advertise()
    sybil = forged_advert(fed, 0, fed.coordinator_key, index=7)  # type: ignore[arg-type]
    bad = resealed_list(fed, "adverts", bundle, lambda a: a.append(sybil))
    assert code_of(fed.organizations[0].share, bad) == "wire.index"


def test_keys_of_low_order(federation: Build) -> None:
    fed = federation(4)
    bundle = fed.advertise()
    forged = forged_advert(fed, 2, fed.keys[2], channel_key=bytes(32))
    bad = resealed_list(fed, "adverts", bundle, lambda a: a.__setitem__(2, forged))
    assert code_of(fed.organizations[0].share, bad) == "keys.low_order"


# P2


def test_altered_share(federation: Build) -> None:
    fed = federation(4)
    inbox = fed.share()[0]
    sealed = decode_inbox(body_of(inbox))[1][1].sealed
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    bad = resealed_inbox(fed, inbox, 1, sealed=flipped)
    assert code_of(fed.organizations[0].mask, bad, fed.vectors[0]) == "shares.leaf"


def test_swapped_shares(federation: Build) -> None:
    fed = federation(4)
    inbox = fed.share()[0]
    parts = decode_inbox(body_of(inbox))[1]
    bad = resealed_inbox(fed, inbox, 1, sealed=parts[2].sealed)
    assert code_of(fed.organizations[0].mask, bad, fed.vectors[0]) == "shares.leaf"
    assert code_of(fed.organizations[0].mask, fed.inboxes[1], fed.vectors[0]) in ("shares.root", "shares.leaf")


def test_altered_leaves(federation: Build) -> None:
    fed = federation(4)
    inbox = fed.share()[0]
    leaves = decode_inbox(body_of(inbox))[1][1].leaves
    bad = resealed_inbox(fed, inbox, 1, leaves=(leaves[0], b"x" * 32, leaves[2]))
    assert code_of(fed.organizations[0].mask, bad, fed.vectors[0]) == "shares.root"


def bad_seal(fed: Any, inbox: bytes, sender: int, recipient: int, sealed: bytes) -> bytes:
    """The sender itself signed a wrong box: everything fits but the seal."""
    ctx1, parts = decode_inbox(body_of(inbox))
    others = [i for i in range(fed.n) if i != sender]
    leaves = list(parts[sender].leaves)
    leaves[others.index(recipient)] = leaf(ctx1, sender, recipient, sealed)
    root = seal("shares", Rooted(ctx1, sender, share_root(ctx1, sender, leaves)).encode(), fed.keys[sender])
    return resealed_inbox(fed, inbox, sender, root=root, leaves=tuple(leaves), sealed=sealed)


def test_a_failed_seal_names_the_culprit(federation: Build) -> None:
    fed = federation(4)
    bad = bad_seal(fed, fed.share()[0], 2, 0, bytes(160))
    with pytest.raises(Refused) as no:
        fed.organizations[0].mask(bad, fed.vectors[0])
    assert (no.value.code, no.value.culprit) == ("share.seal", 2)


def test_sealed_nonsense_names_the_culprit(federation: Build) -> None:
    fed = federation(4)
    inbox = fed.share()[0]
    ctx1 = decode_inbox(body_of(inbox))[0]
    secret = fed.organizations[2]._state.secrets[2]
    public = Advert.decode(body_of(fed.organizations[0].advert)).channel_key
    bad = bad_seal(fed, inbox, 2, 0, keys.seal_share(secret, public, ctx1, 2, 0, b"\xff" * 132))
    with pytest.raises(Refused) as no:
        fed.organizations[0].mask(bad, fed.vectors[0])
    assert (no.value.code, no.value.culprit) == ("share.range", 2)


def test_own_shares_must_be_intact_and_enough(federation: Build) -> None:
    fed = federation(4)
    context, parts = decode_inbox(body_of(fed.share()[0]))

    def without(*senders: int) -> bytes:
        left: tuple[Inbound, ...] = tuple(part for i, part in enumerate(parts) if i not in senders)
        return seal("inbox", encode_inbox(context, left), fed.coordinator_key)

    assert code_of(fed.organizations[0].mask, without(0), fed.vectors[0]) == "shares.own"
    assert code_of(fed.organizations[0].mask, without(1, 2), fed.vectors[0]) == "shares.too_few"


def test_a_refused_vector_signs_nothing_and_may_be_sent_again(federation: Build) -> None:
    fed = federation(3)
    inbox = fed.share()[0]
    assert code_of(fed.organizations[0].mask, inbox, np.full(10, np.nan)) == "vector.finite"
    assert ("upload" in str(fed.journals[0].entries)) is False
    fed.organizations[0].mask(inbox, fed.vectors[0])


def test_one_mask_hides_one_vector(federation: Build) -> None:
    """An old dump must not mask a second vector (or a second rounding) under the same key stream."""
    fed = federation(3)
    inbox = fed.share()[0]
    dump = fed.organizations[0].dump()
    fed.organizations[0].mask(inbox, fed.vectors[0])
    assert code_of(fed.reload(0, dump).mask, inbox, fed.vectors[0]) == "journal.conflict"


def test_split_views_of_u2_do_not_cancel(federation: Build) -> None:
    """Organization 0 is shown a U2 without organization 3: its masks fit nobody else's, and its upload is not taken."""
    fed = federation(4)
    inboxes = fed.share()
    context, parts = decode_inbox(body_of(inboxes[0]))
    split = seal("inbox", encode_inbox(context, parts[:3]), fed.coordinator_key)
    lonely = fed.organizations[0].mask(split, fed.vectors[0])
    assert not fed.coordinator.add_upload(0, *lonely)
    honest = [fed.organizations[i].mask(inboxes[i], fed.vectors[i]) for i in (1, 2, 3)]
    assert fed.organizations[0].context != fed.organizations[1].context
    assert all(fed.coordinator.add_upload(i, *honest[i - 1]) for i in (1, 2, 3))


def test_other_models_give_other_masks(federation: Build) -> None:
    """Pasquini et al.: plans with different models differ in ctx0, so the sides of a pair derive different seeds."""
    fed = federation(3)
    one, other = fed.plan(), fed.plan(model_hash=b"x" * 32)
    assert one.ctx0 != other.ctx0
    secret, public = keys.new_secret(), keys.public_half(keys.new_secret())
    assert keys.pair_seed(secret, public, one.ctx0, 0, 1) != keys.pair_seed(secret, public, other.ctx0, 0, 1)


# P3


def test_survivors_below_the_minimum(federation: Build) -> None:
    fed = federation(4)
    bad = resealed_list(fed, "survivors", fed.upload(), lambda h: h.__delitem__(slice(2, 4)))
    assert code_of(fed.organizations[0].survive, bad) == "survivors.too_few"


def test_own_upload_must_be_among_the_survivors_and_intact(federation: Build) -> None:
    fed = federation(4)
    bundle = fed.upload()
    bad = resealed_list(fed, "survivors", bundle, lambda h: h.pop(0))
    assert code_of(fed.organizations[0].survive, bad) == "survivors.own"
    other = seal("upload", Rooted(fed.organizations[0].context, 0, b"x" * 32).encode(), fed.keys[0])
    bad = resealed_list(fed, "survivors", bundle, lambda h: h.__setitem__(0, other))
    assert code_of(fed.organizations[0].survive, bad) == "survivors.own"


def test_survivors_lie_within_u2(federation: Build) -> None:
    fed = federation(4)
    bundle = fed.upload(frozenset())
    organization = fed.organizations[0]
    organization._state.sharers = (0, 1, 2)
    assert code_of(organization.survive, bundle) == "survivors.stranger"


def test_a_header_cannot_be_forged(federation: Build) -> None:
    fed = federation(4)
    bundle = fed.upload()
    context = fed.organizations[0].context
    forged = seal("upload", Rooted(context, 1, b"x" * 32).encode(), fed.coordinator_key)
    bad = resealed_list(fed, "survivors", bundle, lambda h: h.__setitem__(1, forged))
    assert code_of(fed.organizations[0].survive, bad) == "wire.signature"


def test_survivors_are_signed_once(federation: Build) -> None:
    """Two statements about U3 from the same state, as a restart from an old dump would give them."""
    fed = federation(4)
    bundle = fed.upload()
    dump = fed.organizations[0].dump()
    fed.organizations[0].survive(bundle)
    fewer = resealed_list(fed, "survivors", bundle, lambda h: h.pop(3))
    assert code_of(fed.reload(0, dump).survive, fewer) == "journal.conflict"
    assert fed.reload(0, dump).survive(bundle)


def test_attempts_in_parallel_sign_survivors_once(federation: Build) -> None:
    """Attempt 1 begins before attempt 0 is signed: only one of the two is ever opened."""
    fed = federation(3)
    bundle = fed.upload()
    first = fed.organizations[0]
    fed.coordinator = Coordinator(fed.roster, fed.plan(attempt=1), fed.coordinator_key)
    fed.organizations = {i: fed.begin(i, last=(1, 0)) for i in range(3)}
    for i, organization in fed.organizations.items():
        fed.coordinator.add_advert(i, organization.advert)
    adverts = fed.coordinator.close_adverts()
    for i, organization in fed.organizations.items():
        fed.coordinator.add_shares(i, organization.share(adverts))
    inboxes = fed.coordinator.close_shares()
    for i, organization in fed.organizations.items():
        fed.coordinator.add_upload(i, *organization.mask(inboxes[i], fed.vectors[i]))
    second = fed.coordinator.close_uploads()
    first.survive(bundle)
    assert code_of(fed.organizations[0].survive, second) == "journal.conflict"


# P4


def test_quorum_below_the_threshold(federation: Build) -> None:
    fed = federation(4)
    bad = resealed_list(fed, "quorum", fed.survive(), lambda s: s.__delitem__(slice(2, 4)))
    assert code_of(fed.organizations[0].unmask, bad) == "quorum.too_few"


def test_forged_quorum(federation: Build) -> None:
    fed = federation(4)
    bundle = fed.survive()
    state = fed.organizations[0]._state
    forged = seal("survive", Rooted(state.ctx2, 1, state.statement).encode(), fed.coordinator_key)
    bad = resealed_list(fed, "quorum", bundle, lambda s: s.__setitem__(1, forged))
    assert code_of(fed.organizations[0].unmask, bad) == "wire.signature"


def test_one_signature_counts_once(federation: Build) -> None:
    fed = federation(4)

    def repeat(signatures: list[bytes]) -> None:
        signatures[:] = [signatures[0], signatures[0], signatures[1]]

    bad = resealed_list(fed, "quorum", fed.survive(), repeat)
    assert code_of(fed.organizations[0].unmask, bad) == "quorum.order"


def test_an_equivocating_survivor_spoils_the_quorum(federation: Build) -> None:
    fed = federation(4)
    bundle = fed.survive()
    context = fed.organizations[0].context
    other = seal("survive", Rooted(context, 1, b"x" * 32).encode(), fed.keys[1])
    bad = resealed_list(fed, "quorum", bundle, lambda s: s.__setitem__(1, other))
    assert code_of(fed.organizations[0].unmask, bad) == "quorum.statement"


def test_signatures_come_from_survivors(federation: Build) -> None:
    fed = federation(4)
    bundle = fed.survive(frozenset({3}))
    state = fed.organizations[0]._state
    outside = seal("survive", Rooted(state.ctx2, 3, state.statement).encode(), fed.keys[3])
    bad = resealed_list(fed, "quorum", bundle, lambda s: s.append(outside))
    assert code_of(fed.organizations[0].unmask, bad) == "quorum.stranger"


def test_never_both_secrets(federation: Build) -> None:
    """The server first gets shares for U3, then asks an old dump for a U3 in which a survivor counts as dropped."""
    fed = federation(4)
    quorum = fed.survive(frozenset({3}))
    dump = fed.organizations[0].dump()
    reveal = Reveal.decode(body_of(fed.organizations[0].unmask(quorum)))
    assert [owner for owner, _ in reveal.self_shares] == [0, 1, 2]
    assert [owner for owner, _ in reveal.mask_shares] == [3]
    twisted = fed.reload(0, dump)
    twisted._state.survivors = (0, 1, 3)
    assert code_of(twisted.unmask, quorum) in ("quorum.stranger", "journal.conflict")
    with pytest.raises(Refused, match=r"share\.both"):
        Reveal.decode(Reveal(b"s" * 32, 0, ((1, 5),), ((1, 6),)).encode())


def test_the_plan_is_not_replaced_in_a_dump(federation: Build) -> None:
    fed = federation(3)
    fed.advertise()
    organization = fed.organizations[0]
    organization._state.plan = Plan.sign(fed.plan(threshold=3), fed.keys[1])
    assert code_of(fed.reload, 0) == "wire.signature"
