"""Three organizations: what the smallest federation does not hide.

Attacker: two of three organizations, with or without the server; or one of them alone. Gain: two subtract their vectors
from the sum and have the third's; one has the sum of the other two. This is arithmetic, not a fault, and no check stops
it; fewer than three are refused (`roster.too_few`). Noise protects what is left.
With three, t = 3: everybody must answer, and a colluding pair and the server hold too few shares for anything else.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from cotune.secagg.plan import least_survivors, least_threshold

Build = Callable[..., Any]


def test_two_colluders_learn_the_third(federation: Build) -> None:
    fed = federation(3)
    total = fed.play().values
    assert np.allclose(total - fed.vectors[1] - fed.vectors[2], fed.vectors[0], atol=1e-4)


def test_one_learns_the_sum_of_the_other_two_and_no_more(federation: Build) -> None:
    """Two rounds with the same sum of the others, and other vectors, look the same to organization 0."""
    one, other = federation(3), federation(3)
    other.vectors = one.vectors.copy()
    moved = np.linspace(-0.1, 0.1, one.vectors.shape[1])
    one.vectors *= 0.5
    other.vectors *= 0.5
    other.vectors[1] += moved
    other.vectors[2] -= moved
    assert np.allclose(one.play().values, other.play().values, atol=1e-3)


def test_with_two_each_would_learn_the_other(federation: Build, refusal: Build, without: Build) -> None:
    roster = federation(3).roster
    assert refusal(replace, roster, members=roster.members[:2]) == "roster.too_few"
    without("roster.too_few")
    pair = replace(roster, members=roster.members[:2])
    plan = federation(3).plan(roster_hash=pair.hash, cohort=(0, 1), threshold=2, min_survivors=3)
    assert refusal(plan.check, pair) == "plan.too_few"


def test_nobody_may_be_missing(federation: Build, refusal: Build) -> None:
    assert (least_threshold(3), least_survivors(3)) == (3, 3)
    for phase in range(5):
        assert refusal(federation(3).play, {2: phase}) == "round.too_few"


def test_two_colluders_cannot_forge_a_quorum(federation: Build, hostile: Build, refusal: Build) -> None:
    """Neither without the victim's signature, nor on a list without it."""
    fed = federation(3)
    quorum = fed.survive()
    assert refusal(fed.organizations[0].unmask, hostile(fed).without("quorum", quorum, 0)) == "quorum.too_few"
    fed = federation(3)
    bundle = hostile(fed).without("survivors", fed.upload(), 1)
    assert refusal(fed.organizations[0].survive, bundle) == "survivors.too_few"
