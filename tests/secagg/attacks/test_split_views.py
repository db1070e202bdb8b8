"""Split views: organizations are shown different sets of adverts (U1) or of shares (U2).

Attacker: a coordinator with its genuine key. Aim: a victim that masks for a smaller cohort than the others, so that
fewer masks lie on its vector. Gain without the check: the sum of a smaller set than the others agreed to. Stopped by
the contexts in every signed body and, where those are not checked, by the key schedule: the whole view is in every
seed, so the masks of two views do not cancel, and the control block shows it (`sum.control`).
Source: Bonawitz et al. 2017, section 6.2; Pasquini et al. 2022 on binding masks to what each side saw.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from cotune.secagg import merkle
from cotune.secagg.messages import Advert, Rooted, Shares, decode_inbox, decode_list, encode_inbox
from cotune.secagg.views import box_leaves, read_adverts, share_root
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]


def test_split_adverts(federation: Build, hostile: Build, refusal: Build) -> None:
    """The victim is shown a U1 without organization 3: its shares are under another ctx1, nobody takes them."""
    fed = federation(4)
    bundle = fed.advertise()
    split = hostile(fed).without("adverts", bundle, 3)
    sent = fed.organizations[0].share(split)
    assert not fed.coordinator.add_shares(0, sent)
    assert fed.coordinator.rejections[-1].code == "message.context"
    for i in (1, 2, 3):
        assert fed.coordinator.add_shares(i, fed.organizations[i].share(bundle))
    inbox = fed.coordinator.close_shares()[1]
    assert refusal(fed.organizations[0].mask, inbox, fed.vectors[0]) == "shares.context"


def split_round(fed: Any, hostile: Build) -> tuple[dict[int, Any], Any]:
    """The victim is shown a U2 without organization 3, the others see all four: uploads, and the coordinator."""
    inboxes = fed.share()
    split = hostile(fed).reinbox(inboxes[0], lambda parts: parts.pop(3))
    uploads = {0: fed.organizations[0].mask(split, fed.vectors[0])}
    uploads |= {i: fed.organizations[i].mask(inboxes[i], fed.vectors[i]) for i in (1, 2, 3)}
    return uploads, fed.coordinator


def test_split_shares_give_uploads_of_two_contexts(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(4)
    uploads, server = split_round(fed, hostile)
    assert fed.organizations[0].context != fed.organizations[1].context
    assert not server.add_upload(0, *uploads[0])
    assert server.rejections[-1].code == "message.context"
    assert all(server.add_upload(i, *uploads[i]) for i in (1, 2, 3))
    bundle = server.close_uploads()
    mixed = hostile(fed).relist("survivors", bundle, lambda headers: headers.insert(0, uploads[0][0]))
    for i in (0, 1):
        assert refusal(fed.organizations[i].survive, mixed) == "survivors.context"


def test_a_sum_over_two_views_is_noise(federation: Build, hostile: Build, without: Build, refusal: Build) -> None:
    """Every check of a context is off, at both sides: the server adds the two views up and is given every secret."""
    fed = federation(4)
    without("message.context", "survivors.context", "upload.root")
    uploads, server = split_round(fed, hostile)
    assert all(server.add_upload(i, *uploads[i]) for i in range(4))
    bundle = server.close_uploads()
    for i in (1, 2, 3):
        assert server.add_survival(i, fed.organizations[i].survive(bundle))
    quorum = server.close_survival()
    for i in (1, 2, 3):
        assert server.add_reveal(i, fed.organizations[i].unmask(quorum))
    assert refusal(server.result) == "sum.control"
    without("sum.control", "sum.range")
    total = server.result().values
    assert not np.isclose(total, fed.vectors.sum(axis=0), atol=0.01).all()
    assert not np.isclose(total, fed.vectors[0], atol=0.01).all()


def test_views_below_the_threshold_are_refused(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(7)
    bundle, victim = fed.advertise(), fed.organizations[0]
    assert refusal(victim.share, hostile(fed).without("adverts", bundle, 4, 5, 6)) == "adverts.too_few"
    for i in range(7):
        assert fed.coordinator.add_shares(i, fed.organizations[i].share(bundle))
    inbox = fed.coordinator.close_shares()[0]

    def cut(parts: list[Any]) -> None:
        parts[:] = parts[:4]

    assert refusal(victim.mask, hostile(fed).reinbox(inbox, cut), fed.vectors[0]) == "shares.too_few"


def test_the_own_messages_must_be_in_the_view(federation: Build, hostile: Build, refusal: Build) -> None:
    """Left out itself, a victim would hand out shares or masks for a round that it is no part of."""
    fed = federation(4)
    bundle, victim = fed.advertise(), fed.organizations[0]
    assert refusal(victim.share, hostile(fed).without("adverts", bundle, 0)) == "adverts.own"
    own = Advert.decode(peek(victim.advert)[0])
    twin = seal("advert", replace(own, commitment=b"x" * 32).encode(), fed.keys[0])  # as if the own key had leaked
    assert refusal(victim.share, hostile(fed).swap("adverts", bundle, 0, twin)) == "adverts.own"
    for i in range(4):
        assert fed.coordinator.add_shares(i, fed.organizations[i].share(bundle))
    inboxes = fed.coordinator.close_shares()
    without_it = hostile(fed).reinbox(inboxes[0], lambda parts: parts.pop(0))
    assert refusal(victim.mask, without_it, fed.vectors[0]) == "shares.own"
    for i in range(4):
        assert fed.coordinator.add_upload(i, *fed.organizations[i].mask(inboxes[i], fed.vectors[i]))
    survivors = fed.coordinator.close_uploads()
    assert refusal(victim.survive, hostile(fed).without("survivors", survivors, 0)) == "survivors.own"
    twin = seal("upload", Rooted(victim.context, 0, b"x" * 32).encode(), fed.keys[0])
    assert refusal(victim.survive, hostile(fed).swap("survivors", survivors, 0, twin)) == "survivors.own"


def test_shares_and_uploads_of_those_who_were_not_there(federation: Build, hostile: Build, refusal: Build) -> None:
    """A colluder that skipped P1 sends shares; one that skipped the shares sends an upload."""
    fed = federation(5)
    adverts = fed.advertise(frozenset({4}))
    view = read_adverts(decode_list(peek(adverts)[0])[1], fed.plan(), fed.roster)
    boxes = (bytes(fed.suite.box_bytes),) * 4
    root = share_root(view.ctx1, 4, merkle.top(box_leaves(view.ctx1, 4, view.others(4), boxes)))
    ghost = seal("shares", Rooted(view.ctx1, 4, root).encode(), fed.keys[4])
    assert not fed.coordinator.add_shares(4, Shares(ghost, boxes).encode())
    assert fed.coordinator.rejections[-1].code == "shares.stranger"
    for i in range(4):
        assert fed.coordinator.add_shares(i, fed.organizations[i].share(adverts))
    inboxes = fed.coordinator.close_shares()

    def add(parts: list[Any]) -> None:
        parts.append(type(parts[0])(ghost, (), b""))

    assert (
        refusal(fed.organizations[0].mask, hostile(fed).reinbox(inboxes[0], add), fed.vectors[0]) == "shares.stranger"
    )
    for i in range(4):
        assert fed.coordinator.add_upload(i, *fed.organizations[i].mask(inboxes[i], fed.vectors[i]))
    header = seal("upload", Rooted(fed.organizations[0].context, 4, b"x" * 32).encode(), fed.keys[4])
    assert not fed.coordinator.add_upload(4, header, np.zeros(8 + fed.encoding.words, dtype=np.uint64))
    assert fed.coordinator.rejections[-1].code == "survivors.stranger"
    bundle = fed.coordinator.close_uploads()
    bad = hostile(fed).relist("survivors", bundle, lambda headers: headers.append(header))
    assert refusal(fed.organizations[0].survive, bad) == "survivors.stranger"


def test_a_bundle_under_another_label(federation: Build, hostile: Build, refusal: Build) -> None:
    """Every message in it is right; what the coordinator says that they belong to is not."""
    fed = federation(3)
    adverts, other = fed.advertise(), b"x" * 32
    victim = fed.organizations[0]
    wrong = hostile(fed).bundle("adverts", other, *decode_list(peek(adverts)[0])[1])
    assert refusal(victim.share, wrong) == "adverts.context"
    for i, organization in fed.organizations.items():
        assert fed.coordinator.add_shares(i, organization.share(adverts))
    inboxes = fed.coordinator.close_shares()
    wrong = seal("inbox", encode_inbox(other, decode_inbox(peek(inboxes[0])[0])[1]), fed.coordinator_key)
    assert refusal(victim.mask, wrong, fed.vectors[0]) == "shares.context"
    for i, organization in fed.organizations.items():
        assert fed.coordinator.add_upload(i, *organization.mask(inboxes[i], fed.vectors[i]))
    survivors = fed.coordinator.close_uploads()
    wrong = hostile(fed).bundle("survivors", other, *decode_list(peek(survivors)[0])[1])
    assert refusal(victim.survive, wrong) == "survivors.context"
    for i, organization in fed.organizations.items():
        assert fed.coordinator.add_survival(i, organization.survive(survivors))
    quorum = fed.coordinator.close_survival()
    wrong = hostile(fed).bundle("quorum", other, *decode_list(peek(quorum)[0])[1])
    assert refusal(victim.unmask, wrong) == "quorum.context"
