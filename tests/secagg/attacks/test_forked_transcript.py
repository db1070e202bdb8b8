"""A fork: the server shows two halves of a federation two different rounds after one head.

Attacker: the coordinator. Gain without the check: each half trains on a sum of its own, without a sign of it. Stopped
one round later: every organization extends the head by itself, refuses a plan after another one (`plan.head`), and
countersigns its own in ctx0 of its next advert. Two records after one head are both signed: whoever has both sees it.
Source: Li et al. 2004 (SUNDR, fork consistency); Laurie, Langley, Kasper 2013 (Certificate Transparency).
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from cotune.secagg.coordinator import Coordinator
from cotune.secagg.record import RoundRecord, genesis, verify
from cotune.secagg.transcript import examine
from cotune.secagg.wire import peek

Build = Callable[..., Any]


@pytest.fixture(scope="module")
def fork(federation: Build) -> SimpleNamespace:
    """Round 1 twice: without organization 3, and with it. Only organizations without a journal take part in both."""
    fed = federation(4)
    left = fed.play({3: 2})
    fed.journals = [type(journal)() for journal in fed.journals]
    fed.coordinator = Coordinator(fed.roster, fed.plan(), fed.coordinator_key)
    return SimpleNamespace(fed=fed, left=left, right=fed.play())


def next_round(fork: Any, prev_head: bytes) -> bytes:
    plan = fork.fed.plan(round=2, prev_head=prev_head)
    return plan.sign(fork.fed.coordinator_key)  # type: ignore[no-any-return]


def test_both_records_hold_for_whoever_sees_one(fork: Any) -> None:
    fed = fork.fed
    start = genesis(fed.plan().run, fed.roster)
    heads = {verify(side.record, fed.roster, fed.plan().run, start).head for side in (fork.left, fork.right)}
    assert heads == {fork.left.head, fork.right.head}
    assert len(heads) == 2


def test_an_organization_on_the_fork_refuses_the_next_plan(fork: Any, refusal: Build) -> None:
    for mine, others in ((fork.left, fork.right), (fork.right, fork.left)):
        facts = {"prev_head": mine.head, "last": (1, 0)}
        assert refusal(fork.fed.begin, 0, next_round(fork, others.head), **facts) == "plan.head"
        fed = copy.copy(fork.fed)
        fed.journals = [type(journal)() for journal in fed.journals]
        assert fed.begin(0, next_round(fork, mine.head), **facts)


def test_its_next_advert_countersigns_its_head(fork: Any) -> None:
    """Without that check, the advert of a forked organization does not fit the others' round."""
    fed = copy.copy(fork.fed)
    fed.journals = [type(journal)() for journal in fed.journals]
    advert = fed.begin(0, next_round(fork, fork.left.head), prev_head=fork.left.head).advert
    other = Coordinator(fed.roster, fed.plan(round=2, prev_head=fork.right.head), fed.coordinator_key)
    assert not other.add_advert(0, advert)
    assert other.rejections[-1].code == "adverts.context"


def test_the_record_of_the_other_side_is_refused(fork: Any, refusal: Build) -> None:
    """Also as a later round: its head does not extend this one. So two records after one head show the fork."""
    fed = fork.fed
    assert refusal(verify, fork.right.record, fed.roster, fed.plan().run, fork.left.head) == "record.fork"
    findings = list(examine([fork.left.record, fork.right.record], fed.roster))
    assert findings[0].fault is None
    assert findings[1].fault is not None
    assert findings[1].fault.code == "record.fork"


def test_a_head_that_does_not_follow(fork: Any, refusal: Build) -> None:
    fed = fork.fed
    record = RoundRecord.decode(peek(fork.left.record)[0])
    forged = replace(record, head=fork.right.head).sign(fed.coordinator_key)
    start = genesis(fed.plan().run, fed.roster)
    assert refusal(verify, forged, fed.roster, fed.plan().run, start) == "record.head"


@pytest.mark.parametrize("attempt", [0, 1])
def test_a_round_number_twice_in_one_chain(fork: Any, forgetful: Build, attempt: int) -> None:
    """Organizations without a memory are led through round 1 again, after its own head; also as a further attempt."""
    fed = copy.copy(fork.fed)
    forgetful(fed)
    fed.coordinator = Coordinator(fed.roster, fed.plan(prev_head=fork.left.head, attempt=attempt), fed.coordinator_key)
    fed.expected = lambda **facts: fork.fed.expected(prev_head=fork.left.head)
    again = fed.play()
    findings = list(examine([fork.left.record, again.record], fed.roster))
    assert [each.fault.code if each.fault else None for each in findings] == [None, "transcript.order"]
