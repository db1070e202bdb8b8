"""Altered state: somebody else's, or an older, dump is put in the place of an organization's own.

Attacker: whoever can write the state file, or restore a backup of it, and lacks the identity key and the journal. Gain
without the checks: an organization goes on under another plan, index or roster, or signs something for a second time.
Stopped by the plan's signature, which is checked again (`wire.signature`, `plan.*`), by the identity
(`state.identity`, `state.index`), by strict decoding (`state.format`), by the order of the calls (`phase`) and by the
journal (`journal.conflict`). Not claimed: who can write the journal too, or read the secrets, is this organization.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from cotune.secagg.identity import new_identity, raw_public
from cotune.secagg.organization import Organization
from cotune.secagg.plan import Plan
from cotune.secagg.state import Phase

Build = Callable[..., Any]


def test_another_plan_in_the_dump(federation: Build, refusal: Build) -> None:
    fed = federation(4)
    fed.advertise()
    state = fed.organizations[0]._state
    for key, changes, code in (
        (fed.keys[1], {}, "wire.signature"),
        (fed.coordinator_key, {"threshold": 1}, "plan.threshold"),
        (fed.coordinator_key, {"cohort": (0, 1, 2)}, "plan.cohort"),
        (fed.coordinator_key, {"roster_hash": b"x" * 32}, "plan.roster"),
    ):
        state.plan = Plan.sign(fed.plan(**changes), key)
        assert refusal(fed.reload, 0) == code


def test_a_dump_of_another_organization(federation: Build, refusal: Build) -> None:
    fed = federation(4)
    fed.advertise()
    dump = fed.organizations[1].dump()
    assert refusal(Organization.load, dump, fed.roster, fed.keys[0], fed.journals[0]) == "state.identity"
    fed.organizations[1]._state.index = 9
    assert refusal(fed.reload, 1) == "state.index"
    stranger = replace(fed.roster, members=(raw_public(new_identity(fed.suite)), *fed.roster.members[1:]))
    assert (
        refusal(Organization.load, fed.organizations[0].dump(), stranger, fed.keys[0], fed.journals[0]) == "plan.roster"
    )


def test_bytes_that_are_no_dump(federation: Build, refusal: Build) -> None:
    fed = federation(3)
    fed.advertise()
    dump = fed.organizations[0].dump()
    magic = len(b"cotune-secagg-state-1")
    for bad in (b"x" + dump[1:], dump[:magic] + b"\x09" + dump[magic + 1 :], dump[:magic] + b"\0" + dump[magic + 1 :]):
        assert refusal(fed.reload, 0, bad) == "state.format"
    for secrets in (fed.organizations[0]._state.secrets[:2], (b"short",) * 3):
        fed.organizations[0]._state.secrets = secrets
        assert refusal(fed.reload, 0) == "state.format"
    fed.organizations[1]._state.seeds = (bytes(32), bytes(31))
    assert refusal(fed.reload, 1) == "state.format"


def test_every_call_has_its_turn(federation: Build, refusal: Build) -> None:
    """Bundles of the right round in the wrong order, and every one a second time."""
    fed = federation(3)
    seen: dict[Phase, Callable[[Any], object]] = {}
    bundle = fed.advertise()
    seen[Phase.ADVERTISED] = lambda organization: organization.share(bundle)
    for i in (1, 2):
        fed.coordinator.add_shares(i, fed.organizations[i].share(bundle))
    first = fed.organizations[0]

    def only(now: Phase) -> None:
        for phase, call in seen.items():
            if phase is not now:
                assert refusal(call, first) == "phase"

    fed.coordinator.add_shares(0, first.share(bundle))
    inboxes = fed.coordinator.close_shares()
    seen[Phase.SHARED] = lambda organization: organization.mask(inboxes[0], fed.vectors[0])
    only(Phase.SHARED)
    for i, organization in fed.organizations.items():
        fed.coordinator.add_upload(i, *organization.mask(inboxes[i], fed.vectors[i]))
    survivors = fed.coordinator.close_uploads()
    seen[Phase.MASKED] = lambda organization: organization.survive(survivors)
    only(Phase.MASKED)
    for i, organization in fed.organizations.items():
        fed.coordinator.add_survival(i, organization.survive(survivors))
    quorum = fed.coordinator.close_survival()
    seen[Phase.SURVIVED] = lambda organization: organization.unmask(quorum)
    only(Phase.SURVIVED)
    first.unmask(quorum)
    only(Phase.DONE)


def test_an_older_dump_signs_nothing_new(federation: Build, hostile: Build, refusal: Build) -> None:
    """Restored after each phase, and shown something else than the first time."""
    fed = federation(4)
    bundle = fed.advertise()
    dumps = [fed.organizations[0].dump()]
    for i, organization in fed.organizations.items():
        fed.coordinator.add_shares(i, organization.share(bundle))
    # other randomness makes other boxes, so even the same bundle is not answered twice
    assert refusal(fed.reload(0, dumps[0]).share, bundle) == "journal.conflict"
    dumps.append(fed.organizations[0].dump())
    inboxes = fed.coordinator.close_shares()
    for i, organization in fed.organizations.items():
        fed.coordinator.add_upload(i, *organization.mask(inboxes[i], fed.vectors[i]))
    fewer = hostile(fed).reinbox(inboxes[0], lambda parts: parts.pop(3))
    # Not the same vector to the same members: by chance it may be rounded to the same words, which say nothing new.
    for inbox, vector in ((inboxes[0], -fed.vectors[0]), (fewer, fed.vectors[0])):
        assert refusal(fed.reload(0, dumps[1]).mask, inbox, vector) == "journal.conflict"


def test_a_refused_vector_leaves_no_trace(federation: Build, refusal: Build) -> None:
    """The refusal comes before the signature, so a mended vector may still be sent."""
    fed = federation(3)
    inbox = fed.share()[0]
    for bad, code in (
        (np.full(10, np.nan), "vector.finite"),
        (np.array([np.inf] + [0.0] * 9), "vector.finite"),
        (np.zeros(9), "vector.shape"),
        (np.zeros((1, 10)), "vector.shape"),
        (np.zeros(10, dtype=np.int64), "vector.shape"),
    ):
        assert refusal(fed.organizations[0].mask, inbox, bad) == code
        assert "upload" not in str(fed.journals[0].entries)
    assert fed.organizations[0].mask(inbox, fed.vectors[0])
