"""Masks that do not cancel: one upload is not what the others masked against.

Attacker: a colluding organization that signs anything as its upload, or a server that adds something of its own. Gain
without the check: a garbage sum becomes the next adapter; nothing is learned. Stopped by the masked control block
(`sum.control`), then by the range of every lane (`sum.range`). Who it was cannot be told: that is a limit, a colluder
can spoil a round as it can poison one. Source: secure aggregation with verification, e.g. Xu et al. 2020 (VerifyNet),
does more at a cost; here the audit of the transcript (see test_false_sum.py) shows that the server added honestly.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cotune.secagg import merkle
from cotune.secagg.collecting import Step
from cotune.secagg.control import BLOCK, CONTROL_WORDS, check_control
from cotune.secagg.messages import Rooted
from cotune.secagg.refused import Refused
from cotune.secagg.suites import CLASSIC
from cotune.secagg.wire import seal

Build = Callable[..., Any]


def spoiled(fed: Any, change: Callable[[Any], None]) -> Any:
    """A round in which organization 1 changes its masked words and signs them; the coordinator before its result."""
    inboxes, server = fed.share(), fed.coordinator
    uploads = {i: fed.organizations[i].mask(inboxes[i], fed.vectors[i]) for i in range(fed.n)}
    words = uploads[1][1].copy()
    change(words)
    ctx2 = fed.organizations[1].context
    header = seal("upload", Rooted(ctx2, 1, merkle.root(words, ctx2, 1)).encode(), fed.keys[1])
    fed.organizations[1]._state.header = header
    uploads[1] = (header, words)
    assert all(server.add_upload(i, *upload) for i, upload in uploads.items())
    bundle = server.close_uploads()
    for i, organization in fed.organizations.items():
        assert server.add_survival(i, organization.survive(bundle))
    quorum = server.close_survival()
    for i, organization in fed.organizations.items():
        assert server.add_reveal(i, organization.unmask(quorum))
    return server


def noise(words: Any) -> None:
    words[:] = np.random.default_rng(1).integers(0, 2**64, words.shape, dtype=np.uint64)


def one_control_word(words: Any) -> None:
    words[CONTROL_WORDS - 1] += np.uint64(1)


def spare_bit(words: Any) -> None:
    words[-1] ^= np.uint64(1 << 63)


@pytest.mark.parametrize(
    ("change", "code"), [(noise, "sum.control"), (one_control_word, "sum.control"), (spare_bit, "sum.range")]
)
def test_no_sum_is_decoded(federation: Build, refusal: Build, change: Callable[[Any], None], code: str) -> None:
    server = spoiled(federation(3), change)
    assert refusal(server.result) == code


def test_without_the_checks_garbage_is_the_sum(federation: Build, without: Build) -> None:
    fed = federation(3)
    server = spoiled(fed, noise)
    without("sum.control", "sum.range")
    assert not np.isclose(server.result().values, fed.vectors.sum(axis=0), atol=0.01).all()


@pytest.mark.parametrize("part", ["ciphertext", "wrapped", "commitment"])
def test_who_spoils_an_offered_secret_is_named(federation: Build, part: str) -> None:
    """Hybrid suite: organization 3 offers secrets with wrapped copies of other ones, and is gone before it uploads.

    The copies are all that its rebuilt mask secret opens. Without the commitment beside them nobody could say why the
    masks do not cancel. A false ciphertext or commitment is found by its recipient, who complains.
    """
    fed = federation(4)
    size = fed.suite.ciphertext_bytes
    at = {"ciphertext": 0, "wrapped": size, "commitment": -1}[part]
    begin = fed.begin

    def colluder(index: int) -> Any:
        organization = begin(index)
        honest = organization._offer

        def spoilt(view: Any, peer: int) -> tuple[bytes, bytes]:
            secret, carried = honest(view, peer)
            bent = bytearray(carried)
            if bent:
                bent[at] ^= 1
            return secret, bytes(bent)

        if index == 3:
            organization._offer = spoilt
        return organization

    fed.begin = colluder
    if fed.suite is CLASSIC:
        assert np.allclose(fed.play({3: 2}).values, fed.vectors[:3].sum(axis=0), atol=1e-4)
        return
    with pytest.raises(Refused) as no:
        fed.play({3: 2})
    assert (no.value.code, no.value.member) == ("share.offer", 3)
    found_by_its_recipient = fed.coordinator.step is Step.UPLOADS
    assert found_by_its_recipient == (part != "wrapped")


def test_the_block_counts_contributions(refusal: Build) -> None:
    for n in (3, 30, 200):
        check_control(BLOCK * np.uint64(n), n)
        for wrong in (n - 1, n + 1):
            assert refusal(check_control, BLOCK * np.uint64(n), wrong) == "sum.control"


def test_within_its_lanes_a_liar_can_say_anything(federation: Build) -> None:
    """The limit: a vector within the bounds is as good as any other. Clipping bounds what one organization can do."""
    fed = federation(3)
    fed.vectors[1] = 1e6
    total = fed.play().values
    assert np.allclose(total, fed.vectors[0] + fed.vectors[2] + 1.0, atol=1e-4)
