"""A late upload: an organization is said to have dropped out, its mask secret is rebuilt, then its upload arrives.

Attacker: an honest but curious, or a hostile, coordinator. Gain with pair masks alone: the vector, since every pair
mask of the dropped organization is known then. Stopped by the second mask under b, whose shares nobody gives for a
dropped organization: the server is short of every honest share. Source: Bonawitz et al. 2017, section 4.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import shamir
from cotune.secagg.messages import Reveal
from cotune.secagg.record import verify
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]
LATE, N, T = 6, 7, 5


class Late:
    """A round of seven without organization 6, whose upload came too late; and what P4 made public."""

    def __init__(self, fed: Any) -> None:
        self.fed = fed
        inboxes, server = fed.share(), fed.coordinator
        self.words = fed.organizations[LATE].mask(inboxes[LATE], fed.vectors[LATE])[1]
        for i in range(N - 1):
            assert server.add_upload(i, *fed.organizations[i].mask(inboxes[i], fed.vectors[i]))
        self.held = {i: fed.organizations[i]._state.held[LATE] for i in range(N)}
        bundle = server.close_uploads()
        for i in range(N - 1):
            assert server.add_survival(i, fed.organizations[i].survive(bundle))
        quorum = server.close_survival()
        self.reveals = [fed.organizations[i].unmask(quorum) for i in range(N - 1)]
        assert all(server.add_reveal(i, message) for i, message in enumerate(self.reveals))
        self.record = server.result().record

    def mask_secret(self) -> bytes:
        plan = self.fed.plan()
        return verify(self.record, self.fed.roster, plan.run, plan.prev_head).mask_secrets[LATE]


@pytest.fixture(scope="module")
def late(federation: Build) -> Late:
    return Late(federation(N))


def test_nobody_gives_a_share_of_b(late: Late) -> None:
    for message in late.reveals:
        reveal = Reveal.decode(peek(message)[0])
        assert LATE not in dict(reveal.self_shares)
        assert [owner for owner, _ in reveal.mask_shares] == [LATE]


def test_the_mask_secret_alone_opens_nothing(late: Late, hostile: Build, refusal: Build) -> None:
    mk = late.mask_secret()
    assert refusal(hostile(late.fed).steal, LATE, late.words, b"\0" * 32, mk) == "sum.control"


def test_with_b_it_would_be_open(late: Late, hostile: Build) -> None:
    """The gain: t colluders give their shares of b. Then the threshold is reached, and nothing is claimed."""
    b = hostile(late.fed).secret({i: late.held[i][0] for i in range(T)})
    stolen = hostile(late.fed).steal(LATE, late.words, b, late.mask_secret())
    assert np.allclose(stolen, late.fed.vectors[LATE], atol=1e-4)


def test_one_share_short_every_secret_is_as_likely(late: Late, hostile: Build) -> None:
    """t - 1 colluders: whatever b one guesses, some last share fits it, so the shares say nothing at all."""
    held = {i: late.held[i][0] for i in range(T - 1)}
    assert hostile(late.fed).secret(held) != hostile(late.fed).secret({**held, T: late.held[T][0]})
    weights = shamir.weights([i + 1 for i in range(T)])
    for guess in (b"\0" * 32, b"\xff" * 32, late.fed.keys[0].sign(b"")[:32]):
        partial = sum(share * weight for share, weight in zip(held.values(), weights[:-1], strict=True))
        last = (int.from_bytes(guess, "big") - partial) * pow(weights[-1], -1, shamir.PRIME) % shamir.PRIME
        assert hostile(late.fed).secret({**held, T - 1: last}) == guess


def test_the_late_organization_signs_no_list_without_itself(federation: Build, refusal: Build) -> None:
    fed = federation(4)
    inboxes = fed.share()
    late = fed.organizations[3].mask(inboxes[3], fed.vectors[3])
    for i in range(3):
        assert fed.coordinator.add_upload(i, *fed.organizations[i].mask(inboxes[i], fed.vectors[i]))
    bundle = fed.coordinator.close_uploads()
    assert not fed.coordinator.add_upload(3, *late)
    assert fed.coordinator.rejections[-1].code == "message.late"
    assert refusal(fed.organizations[3].survive, bundle) == "survivors.own"
    for i in range(3):
        fed.coordinator.add_survival(i, fed.organizations[i].survive(bundle))
    given = Reveal.decode(peek(fed.organizations[0].unmask(fed.coordinator.close_survival()))[0])
    own = seal("reveal", replace(given, index=3).encode(), fed.keys[3])
    assert not fed.coordinator.add_reveal(3, own)
    assert fed.coordinator.rejections[-1].code == "reveal.stranger"
