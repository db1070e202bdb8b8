"""Sybils: the server fills the cohort with members of its own making.

Attacker: whoever chooses the roster. Gain without the check: the one genuine organization is summed with ghosts.
Stopped by the roster that the charter pins (`plan.roster`, `wire.index`), and by its rules (`roster.duplicate`).
Not stopped: an organization that the others let in under two names. The protocol counts keys; people admit members.
Source: Douceur 2002; Bonawitz et al. 2017, section 6.2 (a PKI is needed).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from cotune.secagg.identity import new_identity, raw_public
from cotune.secagg.messages import Advert
from cotune.secagg.roster import Roster
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]


def test_a_roster_of_the_servers_own(federation: Build, refusal: Build) -> None:
    """Whoever learns the roster from the server is alone among ghosts; whoever pinned it notices."""
    fed = federation(3)
    pinned = fed.roster
    fed.keys = [fed.keys[0], *(new_identity(fed.suite) for _ in range(2))]
    fed.roster = replace(pinned, members=tuple(raw_public(key) for key in fed.keys))
    fed.coordinator = type(fed.coordinator)(fed.roster, fed.plan(), fed.coordinator_key)
    plan = fed.coordinator.plan_message
    total = fed.play().values
    assert np.allclose(total - fed.vectors[1:].sum(axis=0), fed.vectors[0], atol=1e-3)

    fed.roster, fed.journals = pinned, [type(journal)() for journal in fed.journals]
    assert refusal(fed.begin, 0, plan) == "plan.roster"


def test_a_stranger_among_the_adverts(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(3)
    bundle = fed.advertise()
    own = Advert.decode(peek(fed.organizations[1].advert)[0])
    for index in (3, 7, 199):
        ghost = seal("advert", replace(own, index=index).encode(), new_identity(fed.suite))
        bad = hostile(fed).relist("adverts", bundle, lambda adverts, ghost=ghost: adverts.append(ghost))
        assert refusal(fed.organizations[0].share, bad) == "wire.index"
        assert not fed.coordinator.add_advert(index, ghost)


def test_one_organization_twice_among_the_adverts(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(4)
    bundle, victim = fed.advertise(), fed.organizations[0]
    bad = hostile(fed).relist("adverts", bundle, lambda adverts: adverts.insert(2, adverts[1]))
    assert refusal(victim.share, bad) == "adverts.order"
    other = Advert.decode(peek(fed.organizations[1].advert)[0])
    fresh = replace(other, mask_key=other.channel_key, channel_key=other.mask_key)
    second = seal("advert", fresh.encode(), fed.keys[1])  # organization 1 colludes and signs a second advert
    bad = hostile(fed).relist("adverts", bundle, lambda adverts: adverts.insert(2, second))
    assert refusal(victim.share, bad) == "adverts.order"


def test_one_key_twice_in_the_roster(federation: Build, refusal: Build) -> None:
    roster = federation(4).roster
    doubled = (*roster.members[:3], roster.members[0])
    assert refusal(replace, roster, members=doubled) == "roster.duplicate"


def test_the_coordinator_as_a_member(federation: Build, refusal: Build) -> None:
    """It would hold a share of every secret, and count towards every threshold."""
    roster = federation(4).roster
    assert refusal(replace, roster, members=(*roster.members[:3], roster.coordinator)) == "roster.duplicate"


def test_a_roster_too_small_or_too_large(federation: Build, refusal: Build) -> None:
    """Two organizations: each knows the other's vector by subtracting its own."""
    roster = federation(3).roster
    assert refusal(replace, roster, members=roster.members[:2]) == "roster.too_few"
    crowd = tuple(number.to_bytes(2, "big") + roster.members[0][2:] for number in range(201))
    assert refusal(replace, roster, members=crowd) == "roster.too_many"
    assert len(replace(roster, members=crowd[:200]).members) == 200


def test_keys_and_names_of_a_roster(federation: Build, refusal: Build) -> None:
    roster = federation(3).roster
    short = (*roster.members[:2], roster.members[2][:-1])
    assert refusal(replace, roster, members=short) == "roster.key"
    for name, epoch in (("", 1), ("x" * 201, 1), ("x", -1), ("x", 2**32)):
        assert refusal(replace, roster, federation=name, epoch=epoch) == "roster.name"


def test_every_part_of_the_roster_is_in_its_hash(federation: Build) -> None:
    roster = federation(3).roster
    turned = (roster.members[1], roster.members[0], roster.members[2])
    others = [
        replace(roster, federation="other"),
        replace(roster, epoch=2),
        replace(roster, members=turned),
        replace(roster, coordinator=roster.coordinator[::-1]),
    ]
    assert isinstance(others[0], Roster)
    assert len({roster.hash, *(other.hash for other in others)}) == 5
