"""Altered, swapped and worthless shares of the round secrets.

Attacker: the coordinator that passes the boxes on, or a colluding organization that fills them. Gain without the
checks: secrets that cannot be rebuilt in P4, blamed on an honest owner. Stopped by the signed root over all boxes of a
sender (`shares.leaf`, `shares.size`), by the seal with its direction and context (`share.seal`), by the field
(`share.range`) and, in P4, by the commitments in the adverts (`unmask.secret`). Not stopped: a wrong number, well
sealed; it is outvoted, or the round ends and names its owner.
Source: Bonawitz et al. 2017, section 6.2; Feldman 1987 on verifiable sharing, which this protocol does without.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import keys
from cotune.secagg.messages import Reveal, Shares, decode_inbox
from cotune.secagg.refused import Refused
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def test_the_server_alters_a_box(federation: Build, hostile: Build, refusal: Build) -> None:
    """Any byte of it: sealed shares, nonce, or what carries the pair's secret."""
    fed = federation(4)
    inbox = fed.share()[0]
    box = decode_inbox(peek(inbox)[0])[1][1].box
    for at in (0, 11, 12, len(box) // 2, len(box) - 1):
        bad = hostile(fed).reinbox(inbox, lambda parts, at=at: put(parts, 1, box=flipped(box, at)))
        assert refusal(fed.organizations[0].mask, bad, fed.vectors[0]) == "shares.leaf"
    for other in (b"", box[:-1], box + b"\0"):
        bad = hostile(fed).reinbox(inbox, lambda parts, other=other: put(parts, 1, box=other))
        assert refusal(fed.organizations[0].mask, bad, fed.vectors[0]) == "shares.size"


def put(parts: list[Any], sender: int, **changes: Any) -> None:
    parts[sender] = replace(parts[sender], **changes)


def test_the_server_swaps_boxes(federation: Build, hostile: Build, refusal: Build) -> None:
    """Of two senders; of two recipients, path and all; a whole inbox."""
    fed = federation(4)
    inboxes = fed.share()
    parts, others = (decode_inbox(peek(inboxes[i])[0])[1] for i in (0, 2))
    victim, vector = fed.organizations[0], fed.vectors[0]
    for swapped in ({"box": parts[2].box}, {"box": others[1].box}, {"box": others[1].box, "path": others[1].path}):
        bad = hostile(fed).reinbox(inboxes[0], lambda parts, swapped=swapped: put(parts, 1, **swapped))
        assert refusal(victim.mask, bad, vector) == "shares.leaf"
    assert refusal(victim.mask, inboxes[2], vector) == "shares.own"  # a box to oneself


def test_the_server_alters_the_proof(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(4)
    inbox = fed.share()[0]
    path = decode_inbox(peek(inbox)[0])[1][1].path
    for bad_path in ((), path[:-1], (*path, path[0]), path[::-1], (flipped(path[0], 0), *path[1:])):
        bad = hostile(fed).reinbox(inbox, lambda parts, bad_path=bad_path: put(parts, 1, path=bad_path))
        assert refusal(fed.organizations[0].mask, bad, fed.vectors[0]) == "shares.leaf"


def test_somebody_on_the_way_alters_what_the_coordinator_gets(federation: Build) -> None:
    fed = federation(4)
    bundle = fed.advertise()
    shares = Shares.decode(fed.organizations[0].share(bundle))
    first = shares.boxes[0]
    for boxes, code in (
        ((flipped(first, 20), *shares.boxes[1:]), "shares.root"),
        (shares.boxes[::-1], "shares.root"),
        (shares.boxes[1:], "shares.size"),
        ((first[:-1], *shares.boxes[1:]), "shares.size"),
    ):
        assert not fed.coordinator.add_shares(0, replace(shares, boxes=boxes).encode())
        assert fed.coordinator.rejections[-1].code == code


def colluding(fed: Any, seal_for_victim: Callable[..., bytes]) -> dict[int, bytes]:
    """Organization 2 signs whatever it sealed for organization 0: inboxes."""
    bundle = fed.advertise()
    colluder = fed.organizations[2]
    honest = colluder._seal
    colluder._seal = lambda view, peer, shares: (seal_for_victim if peer == 0 else honest)(view, peer, shares)
    for i, organization in fed.organizations.items():
        assert fed.coordinator.add_shares(i, organization.share(bundle))
    return fed.coordinator.close_shares()  # type: ignore[no-any-return]


def sealed(fed: Any, plain: bytes, sender: int = 2, recipient: int = 0) -> Callable[..., bytes]:
    """A box whose text, and whose direction, the colluder chose."""

    def make(view: Any, peer: int, shares: Any) -> bytes:
        public = view.adverts[peer].channel_key
        secret = fed.organizations[2]._state.secrets[2]
        return keys.seal_share(fed.suite, secret, public, view.ctx1, sender, recipient, plain)

    return make


@pytest.mark.parametrize("kind", ["zeros", "another direction", "another recipient"])
def test_a_box_that_does_not_open_names_its_sender(federation: Build, kind: str) -> None:
    fed = federation(4)
    makers = {
        "zeros": lambda view, peer, shares: bytes(fed.suite.sealed_bytes),
        "another direction": sealed(fed, bytes(132), 0, 2),
        "another recipient": sealed(fed, bytes(132), 2, 1),
    }
    inboxes = colluding(fed, makers[kind])
    with pytest.raises(Refused) as no:
        fed.organizations[0].mask(inboxes[0], fed.vectors[0])
    assert (no.value.code, no.value.member) == ("share.seal", 2)
    fed.organizations[1].mask(inboxes[1], fed.vectors[1])


def test_numbers_outside_the_field_name_their_sender(federation: Build) -> None:
    """2^521 - 1 itself is the first of them."""
    fed = federation(4)
    prime = (2**521 - 1).to_bytes(66, "big")
    for plain in (b"\xff" * 132, prime + bytes(66), bytes(66) + prime):
        fed = federation(4)
        inboxes = colluding(fed, sealed(fed, plain))
        with pytest.raises(Refused) as no:
            fed.organizations[0].mask(inboxes[0], fed.vectors[0])
        assert (no.value.code, no.value.member) == ("share.range", 2)
    outside = Reveal(b"s" * 32, 0, ((0, 2**521 - 1),), ()).encode()
    with pytest.raises(Refused, match=r"share\.range"):
        Reveal.decode(outside)


def wrong_numbers(fed: Any, victims: tuple[int, ...]) -> None:
    """Organization 2 seals numbers that are no shares of its secrets for some, and uploads all the same."""
    colluder = fed.organizations[2]
    honest = colluder._split

    def split(view: Any) -> dict[int, tuple[int, int]]:
        return {i: (0, 0) if i in victims else pair for i, pair in honest(view).items()}

    colluder._split = split


@pytest.mark.parametrize(("n", "victims", "sums"), [(4, (0,), True), (4, (0, 1), False), (3, (0,), False)])
def test_wrong_numbers_are_outvoted_or_named(federation: Build, n: int, victims: tuple[int, ...], sums: bool) -> None:
    fed = federation(n)
    server = fed.coordinator
    bundle = fed.advertise()
    wrong_numbers(fed, victims)
    for i, organization in fed.organizations.items():
        assert server.add_shares(i, organization.share(bundle))
    inboxes = server.close_shares()
    for i, organization in fed.organizations.items():
        assert server.add_upload(i, *organization.mask(inboxes[i], fed.vectors[i]))
    survivors = server.close_uploads()
    for i, organization in fed.organizations.items():
        assert server.add_survival(i, organization.survive(survivors))
    quorum = server.close_survival()
    for i, organization in fed.organizations.items():
        assert server.add_reveal(i, organization.unmask(quorum))
    if sums:
        assert np.allclose(server.result().values, fed.vectors.sum(axis=0), atol=1e-4)
        return
    with pytest.raises(Refused) as no:
        server.result()
    assert (no.value.code, no.value.member) == ("unmask.secret", 2)


def test_wrong_numbers_in_the_reveal(federation: Build, refusal: Build) -> None:
    """Organization 0 lies in P4: it is named, and the answers of the others are enough."""
    fed = federation(4)
    quorum = fed.survive()
    messages = {i: organization.unmask(quorum) for i, organization in fed.organizations.items()}
    honest = Reveal.decode(peek(messages[0])[0])
    lie = replace(honest, self_shares=tuple((owner, value ^ 1) for owner, value in honest.self_shares))
    false = seal("reveal", lie.encode(), fed.keys[0])
    server = fed.coordinator
    assert not server.add_reveal(0, false)
    assert (server.rejections[-1].index, server.rejections[-1].code) == (0, "reveal.share")
    assert server.add_reveal(1, messages[1])
    assert server.add_reveal(2, messages[2])
    assert refusal(server.result) == "round.too_few"
    assert server.add_reveal(3, messages[3])
    assert np.allclose(server.result().values, fed.vectors.sum(axis=0), atol=1e-4)


def test_without_commitments_a_liar_has_another_named(federation: Build, without: Build) -> None:
    without("reveal.share")
    fed = federation(3)
    quorum = fed.survive()
    messages = {i: organization.unmask(quorum) for i, organization in fed.organizations.items()}
    honest = Reveal.decode(peek(messages[2])[0])
    lie = replace(honest, self_shares=tuple((owner, value ^ 1) for owner, value in honest.self_shares))
    messages[2] = seal("reveal", lie.encode(), fed.keys[2])
    assert all(fed.coordinator.add_reveal(i, message) for i, message in messages.items())
    with pytest.raises(Refused) as no:
        fed.coordinator.result()
    assert (no.value.code, no.value.member) == ("unmask.secret", 0)
