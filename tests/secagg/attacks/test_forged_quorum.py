"""Forged and short quorums: too few organizations agreed on the survivors, and secrets are asked for.

Attacker: a coordinator with its genuine key, in some tests with a colluding organization. Gain without the checks: an
organization gives its shares for a list of survivors that the others never saw, the first half of asking for both
secrets of a victim. Stopped by the consistency round: at least t distinct survivors signed the very same statement
(`quorum.*`). Source: Bonawitz et al. 2017, section 6.2 (ConsistencyCheck).
"""

from collections.abc import Callable
from typing import Any

import pytest
from cotune.secagg.messages import Reveal, Rooted
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]


def test_below_the_threshold(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(7)
    quorum, threshold = fed.survive(), fed.plan().threshold
    victim = fed.organizations[0]
    short = hostile(fed).without("quorum", quorum, *range(threshold - 1, 7))
    assert refusal(victim.unmask, short) == "quorum.too_few"
    assert refusal(victim.unmask, hostile(fed).without("quorum", quorum, *range(7))) == "quorum.too_few"
    assert victim.unmask(hostile(fed).without("quorum", quorum, *range(threshold, 7)))


def test_without_the_count_one_signature_opens_shares(
    federation: Build, hostile: Build, without: Build, refusal: Build
) -> None:
    """The victim alone signed a U3 without organization 3, who is alive: its mask secret is given away."""
    fed = federation(4)
    bundle = hostile(fed).without("survivors", fed.upload(), 3)
    victim = fed.organizations[0]
    own = victim.survive(bundle)
    statement = Rooted.decode(peek(own)[0])
    quorum = hostile(fed).bundle("quorum", statement.context, own)
    assert refusal(victim.unmask, quorum) == "quorum.too_few"
    without("quorum.too_few")
    given = Reveal.decode(peek(victim.unmask(quorum))[0])
    assert given.statement == statement.root
    assert [owner for owner, _ in given.mask_shares] == [3]


def test_signed_by_nobody_else(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(4)
    quorum = fed.survive()
    victim = fed.organizations[0]
    body = Rooted(victim.context, 1, victim._state.statement).encode()
    for key in (fed.coordinator_key, fed.keys[2]):
        forged = seal("survive", body, key)
        assert refusal(victim.unmask, hostile(fed).swap("quorum", quorum, 1, forged)) == "wire.signature"


@pytest.mark.parametrize("context", [True, False])
def test_one_signature_on_something_else_spoils_it(
    federation: Build, hostile: Build, refusal: Build, context: bool
) -> None:
    fed = federation(4)
    quorum = fed.survive()
    victim = fed.organizations[0]
    state = victim._state
    other = Rooted(b"x" * 32, 1, state.statement) if context else Rooted(state.ctx2, 1, b"x" * 32)
    bad = hostile(fed).swap("quorum", quorum, 1, seal("survive", other.encode(), fed.keys[1]))
    assert refusal(victim.unmask, bad) == "quorum.statement"
    assert not fed.coordinator.add_survival(1, seal("survive", other.encode(), fed.keys[1]))


def test_one_organization_counts_once(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(4)
    quorum = fed.survive()
    repeated = hostile(fed).relist("quorum", quorum, lambda signed: signed.__setitem__(slice(1, 4), [signed[1]] * 3))
    assert refusal(fed.organizations[0].unmask, repeated) == "quorum.order"


def test_a_dropped_organization_does_not_count(federation: Build, hostile: Build, refusal: Build) -> None:
    """Organization 3 colludes: it did not upload in time, and signs what the others sign."""
    fed = federation(4)
    quorum = fed.survive(frozenset({3}))
    victim = fed.organizations[0]
    outside = seal("survive", Rooted(victim.context, 3, victim._state.statement).encode(), fed.keys[3])
    bad = hostile(fed).relist("quorum", quorum, lambda signed: signed.__setitem__(slice(2, 3), [outside]))
    assert refusal(victim.unmask, bad) == "quorum.stranger"
    fed = federation(4)
    survivors = fed.upload(frozenset({3}))
    statement = Rooted.decode(peek(fed.organizations[0].survive(survivors))[0])
    outside = seal("survive", Rooted(statement.context, 3, statement.root).encode(), fed.keys[3])
    assert not fed.coordinator.add_survival(3, outside)
    assert fed.coordinator.rejections[-1].code == "quorum.stranger"


def test_the_coordinator_does_not_close_with_too_few(federation: Build, refusal: Build) -> None:
    fed = federation(4)
    bundle = fed.upload()
    for i in (0, 1):
        fed.coordinator.add_survival(i, fed.organizations[i].survive(bundle))
    assert refusal(fed.coordinator.close_survival) == "round.too_few"
    assert refusal(fed.coordinator.result) == "round.order"
