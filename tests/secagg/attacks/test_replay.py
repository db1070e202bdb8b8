"""Replay: honestly signed messages of another round, attempt, run or membership are shown again.

Attacker: a coordinator with its genuine key. Gain without the checks: keys whose secrets are public by now. A dropped
organization's mask secret stands in the round record, so under its old advert every pair mask with it is known.
Stopped by the context in every signed body (ctx0 of the plan, ctx1 of the adverts, ctx2 of the shares) and by the
journal. Source: Bonawitz et al. 2017, section 6.2.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cotune.secagg.control import CONTROL_WORDS
from cotune.secagg.coordinator import Coordinator
from cotune.secagg.messages import SEAL, Advert, Complaint, Rooted, Shares, decode_inbox
from cotune.secagg.record import genesis, verify
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]
AGES = ("attempt", "round", "run", "epoch")


class Old:
    """A finished round, and the same organizations, with the same identities, in another one."""

    def __init__(self, fed: Any, witness: Build, age: str) -> None:
        self.seen = witness(fed)
        self.new = copy.copy(fed)
        self.new.journals = [type(journal)() for journal in fed.journals]  # the journal has its own tests below
        changes: dict[str, Any] = {"attempt": 1}
        facts: dict[str, Any] = {}
        if age == "round":
            changes = {"round": 2, "prev_head": self.seen.outcome.head}
            facts = {"prev_head": self.seen.outcome.head}
        if age == "run":
            changes = facts = {"run": b"another run, 16B"}
        if age == "epoch":
            self.new.roster = replace(fed.roster, epoch=2)
            changes = facts = {"prev_head": genesis(fed.plan().run, self.new.roster)}
        known = self.new.expected
        self.new.expected = lambda **more: known(**{**facts, **more})
        self.new.coordinator = Coordinator(self.new.roster, self.new.plan(**changes), fed.coordinator_key)
        self.age = age


@pytest.fixture(params=AGES)
def old(federation: Build, witness: Build, request: pytest.FixtureRequest) -> Old:
    return Old(federation(4), witness, request.param)


def last_code(fed: Any) -> str:
    return str(fed.coordinator.rejections[-1].code)


def test_the_plan(old: Old, refusal: Build) -> None:
    facts = {"last": (1, 1) if old.age == "attempt" else (2, 0)}
    expected = {"attempt": "plan.replay", "round": "plan.replay", "run": "plan.run", "epoch": "plan.roster"}
    assert refusal(old.new.begin, 0, old.seen.plan, **facts) == expected[old.age]


def test_adverts(old: Old, hostile: Build, refusal: Build) -> None:
    bundle, victim = old.new.advertise(), old.new.organizations[0]
    assert refusal(victim.share, old.seen.adverts) == "adverts.context"
    assert refusal(victim.share, hostile(old.new).swap("adverts", bundle, 1, old.seen.advert[1])) == "adverts.context"
    assert not Coordinator.add_advert(fresh(old), 1, old.seen.advert[1])


def fresh(old: Old) -> Coordinator:
    return Coordinator(old.new.roster, old.new.coordinator._plan, old.new.coordinator_key)


def test_shares(old: Old, hostile: Build, refusal: Build) -> None:
    bundle = old.new.advertise()
    assert not old.new.coordinator.add_shares(1, old.seen.shares[1])
    assert last_code(old.new) == "message.context"
    for i, organization in old.new.organizations.items():
        assert old.new.coordinator.add_shares(i, organization.share(bundle))
    inbox = old.new.coordinator.close_shares()[0]
    victim, vector = old.new.organizations[0], old.new.vectors[0]
    assert refusal(victim.mask, old.seen.inbox[0], vector) == "shares.context"
    part = decode_inbox(peek(old.seen.inbox[0])[0])[1][1]
    mixed = hostile(old.new).reinbox(inbox, lambda parts: parts.__setitem__(1, part))
    assert refusal(victim.mask, mixed, vector) == "shares.context"


def test_complaints(old: Old) -> None:
    """So that a dispute of one attempt does not leave somebody out of the next."""
    ctx1 = Rooted.decode(peek(Shares.decode(old.seen.shares[1]).root)[0]).context
    complaint = seal("complaint", Complaint(ctx1, 1, 2, SEAL).encode(), old.new.keys[1])
    old.new.share()
    assert not old.new.coordinator.add_complaint(1, complaint)
    assert last_code(old.new) == "message.context"


def test_uploads(old: Old, hostile: Build, refusal: Build) -> None:
    bundle, victim = old.new.upload(frozenset({1})), old.new.organizations[0]
    assert refusal(victim.survive, old.seen.survivors) == "survivors.context"
    header = old.seen.upload[1][0]
    mixed = hostile(old.new).relist("survivors", bundle, lambda headers: headers.insert(1, header))
    assert refusal(victim.survive, mixed) == "survivors.context"


def test_uploads_at_the_coordinator(old: Old) -> None:
    inboxes = old.new.share()
    assert not old.new.coordinator.add_upload(1, *old.seen.upload[1])
    assert last_code(old.new) == "message.context"
    assert old.new.coordinator.add_upload(1, *old.new.organizations[1].mask(inboxes[1], old.new.vectors[1]))


def test_survivors_signatures(old: Old, hostile: Build, refusal: Build) -> None:
    bundle, victim = old.new.upload(), old.new.organizations[0]
    assert not old.new.coordinator.add_survival(1, old.seen.survival[1])
    assert last_code(old.new) == "message.context"
    for i, organization in old.new.organizations.items():
        assert old.new.coordinator.add_survival(i, organization.survive(bundle))
    quorum = old.new.coordinator.close_survival()
    assert refusal(victim.unmask, old.seen.quorum) == "quorum.context"
    assert (
        refusal(victim.unmask, hostile(old.new).swap("quorum", quorum, 1, old.seen.survival[1])) == "quorum.statement"
    )


def test_reveals(old: Old) -> None:
    old.new.survive()
    assert not old.new.coordinator.add_reveal(1, old.seen.reveal[1])
    assert last_code(old.new) == "reveal.statement"


def test_the_record(old: Old, refusal: Build) -> None:
    """Shown again after the head has moved on, or to another run."""
    record, plan = old.seen.outcome.record, old.new.coordinator._plan
    head = old.seen.outcome.head if old.age == "attempt" else plan.prev_head
    code = {"run": "record.run", "epoch": "plan.roster"}.get(old.age, "record.fork")
    assert refusal(verify, record, old.new.roster, plan.run, head) == code


def test_without_contexts_an_old_advert_is_a_known_mask(federation: Build, hostile: Build, without: Build) -> None:
    """Round 1: organization 3 drops out, so its mask secret is public. Round 2 is shown its old advert."""
    fed = federation(4)
    outcome = fed.play({3: 2})
    advert = fed.organizations[3].advert
    verified = verify(outcome.record, fed.roster, fed.plan().run, fed.plan().prev_head)
    known = verified.mask_secrets[3]
    without("adverts.context")
    old = Old(fed, lambda _: SimpleNamespace(outcome=outcome), "round")
    bundle = hostile(fed).swap("adverts", old.new.advertise(), 3, advert)
    victim = old.new.organizations[0]
    victim.share(bundle)
    own = verified.cohort.adverts[3].mask_key
    assert fed.suite.public_half(known) == own
    mine, theirs = victim._state.secrets[1], Advert.decode(peek(victim.advert)[0]).mask_key
    assert fed.suite.exchange(mine, own) == fed.suite.exchange(known, theirs)


def test_an_attempt_is_begun_once(federation: Build, refusal: Build) -> None:
    """The same plan to a restarted organization: no second key set under one context."""
    fed = federation(3)
    fed.begin(0)
    assert refusal(fed.begin, 0) == "journal.conflict"


def test_an_old_dump_masks_no_second_vector(federation: Build, refusal: Build) -> None:
    """One mask over two vectors gives their difference (a restart is made to believe that it never sent its upload)."""
    fed = federation(3)
    inbox = fed.share()[0]
    dump = fed.organizations[0].dump()
    fed.organizations[0].mask(inbox, fed.vectors[0])
    assert refusal(fed.reload(0, dump).mask, inbox, fed.vectors[1]) == "journal.conflict"


def test_without_a_journal_one_mask_hides_two_vectors(federation: Build, forgetful: Build) -> None:
    """The second vector is zero, or known: subtracting the two uploads gives the first one."""
    fed = federation(3)
    forgetful(fed)
    inbox = fed.share()[0]
    dump = fed.organizations[0].dump()
    one = fed.organizations[0].mask(inbox, fed.vectors[0])[1]
    other = fed.reload(0, dump).mask(inbox, np.zeros_like(fed.vectors[0]))[1]
    zero = np.empty(fed.encoding.words, dtype=np.uint64)
    fed.encoding.encode(np.zeros_like(fed.vectors[0]), zero)
    stolen = fed.encoding.decode((one - other)[CONTROL_WORDS:] + zero, 1)
    assert np.allclose(stolen, fed.vectors[0], atol=1e-4)
