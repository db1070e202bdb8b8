"""Every fact of a plan that an organization holds against the server, one bad plan each."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from cotune.secagg.encoding import Encoding
from cotune.secagg.plan import Plan, least_survivors, least_threshold
from cotune.secagg.refused import Refused
from cotune.secagg.roster import Roster
from cotune.secagg.wire import seal

Build = Callable[..., Any]


def refusal(fed: Any, plan: Plan, **facts: object) -> str:
    with pytest.raises(Refused) as no:
        fed.begin(0, plan.sign(fed.coordinator_key), **facts)
    assert not fed.journals[0].entries
    return str(no.value.code)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"roster_hash": b"x" * 32}, "plan.roster"),
        ({"cohort": (0, 1, 2)}, "plan.cohort"),
        ({"threshold": 2}, "plan.threshold"),
        ({"threshold": 1}, "plan.threshold"),
        ({"threshold": 5}, "plan.threshold"),
        ({"min_survivors": 2}, "plan.min_survivors"),
        ({"min_survivors": 5}, "plan.min_survivors"),
        ({"threshold": 4}, "plan.min_survivors"),
        ({"model_hash": b"x" * 32}, "plan.model"),
        ({"schema_hash": b"x" * 32}, "plan.schema"),
        ({"dp_hash": b"x" * 32}, "plan.privacy"),
        ({"run": b"x" * 16}, "plan.run"),
        ({"prev_head": b"x" * 32}, "plan.head"),
        ({"deadline": 1_000}, "plan.deadline"),
        ({"deadline": 3_001}, "plan.deadline"),
        ({"suite": 3}, "plan.suite"),
        ({"encoding": Encoding(((10, 2.0),), 4, 21)}, "plan.encoding"),
        ({"encoding": Encoding(((10, 1.0),), 4, 20)}, "plan.encoding"),
        ({"encoding": Encoding(((11, 1.0),), 4, 21)}, "plan.dimension"),
        ({"encoding": Encoding(((10, 1.0),), 3, 21)}, "plan.overflow"),
    ],
)
def test_bad_plan(federation: Build, changes: dict[str, object], code: str) -> None:
    fed = federation(4)
    assert refusal(fed, fed.plan(**changes)) == code


@pytest.mark.parametrize("last", [(1, 0), (1, 3), (2, 0)])
def test_round_and_attempt_must_increase(federation: Build, last: tuple[int, int]) -> None:
    fed = federation(3)
    assert refusal(fed, fed.plan(), last=last) == "plan.replay"


def test_a_signed_round_is_burned_for_every_attempt(federation: Build) -> None:
    fed = federation(3)
    fed.survive()
    with pytest.raises(Refused) as no:
        fed.begin(0, fed.plan(attempt=1).sign(fed.coordinator_key))
    assert no.value.code == "plan.burned"


def test_an_attempt_is_begun_once(federation: Build) -> None:
    fed = federation(3)
    fed.begin(0)
    with pytest.raises(Refused) as no:
        fed.begin(0)
    assert no.value.code == "journal.conflict"


def test_only_the_coordinator_signs_plans(federation: Build) -> None:
    fed = federation(3)
    with pytest.raises(Refused) as no:
        fed.begin(0, fed.plan().sign(fed.keys[1]))
    assert no.value.code == "wire.signature"


def test_a_signature_of_another_kind_does_not_count(federation: Build) -> None:
    fed = federation(3)
    with pytest.raises(Refused) as no:
        fed.begin(0, seal("record", fed.plan().encode(), fed.coordinator_key))
    assert no.value.code == "wire.signature"


def test_levels_that_would_overflow_are_refused(federation: Build) -> None:
    fed = federation(4)
    body = fed.plan().encode()
    levels = struct.pack(">Q", fed.encoding.levels)
    assert body.count(levels) == 1
    forged = body.replace(levels, struct.pack(">Q", fed.encoding.levels + 1))
    with pytest.raises(Refused) as no:
        fed.begin(0, seal("plan", forged, fed.coordinator_key))
    assert no.value.code == "plan.overflow"


def test_plan_survives_its_encoding(federation: Build) -> None:
    plan = federation(5, 33, 0.25).plan()
    assert Plan.decode(plan.encode()) == plan


def test_two_organizations_are_refused_and_told_why() -> None:
    with pytest.raises(Refused, match="subtracting"):
        Roster("two", 1, (b"a" * 32, b"b" * 32), b"c" * 32)


def test_a_key_stands_in_the_roster_once() -> None:
    for members, coordinator in (((b"a" * 32,) * 3, b"c" * 32), ((b"a" * 32, b"b" * 32, b"c" * 32), b"c" * 32)):
        with pytest.raises(Refused) as no:
            Roster("f", 1, members, coordinator)
        assert no.value.code == "roster.duplicate"


@pytest.mark.parametrize(("n", "t"), [(3, 3), (4, 3), (7, 5), (10, 7), (30, 21), (200, 134)])
def test_thresholds_of_the_specification(n: int, t: int) -> None:
    assert least_threshold(n) == t
    assert least_survivors(n) == max(3, t)
