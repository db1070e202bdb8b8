"""Blame: who is left out after a dispute, and who is not.

Attacker: a colluding organization that seals rubbish, or accuses an honest one of it. Gain without the rules: every
attempt fails, or honest organizations are thrown out one by one. A complaint convicts nobody: it decides whom the next
attempt leaves out (`left_out`): as few as end every dispute, so never more than there are liars. Liars choose the
disputes, so the search for these few is bounded (`cover.MAX_NODES`).
Source: the rules are this protocol's own; verifiable sharing (Feldman 1987) would turn disputes into proofs, at a cost.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.secagg.blame import left_out
from cotune.secagg.messages import SEAL, Complaint
from cotune.secagg.plan import least_threshold
from cotune.secagg.refused import Refused
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]


def disputed(fed: Any) -> tuple[dict[int, bytes], bytes]:
    """Organization 2 seals rubbish for organization 0: inboxes, and the complaint of 0."""
    bundle = fed.advertise()
    colluder = fed.organizations[2]
    honest = colluder._seal
    colluder._seal = lambda view, peer, shares: (
        bytes(fed.suite.sealed_bytes) if peer == 0 else honest(view, peer, shares)
    )
    for i, organization in fed.organizations.items():
        assert fed.coordinator.add_shares(i, organization.share(bundle))
    inboxes = fed.coordinator.close_shares()
    with pytest.raises(Refused) as no:
        fed.organizations[0].mask(inboxes[0], fed.vectors[0])
    return inboxes, fed.organizations[0].complain(no.value)


def test_the_round_goes_on_without_the_one_that_complained(federation: Build) -> None:
    """It sends no upload and drops out; its complaint is kept and names both sides."""
    fed = federation(4)
    inboxes, complaint = disputed(fed)
    server = fed.coordinator
    assert server.add_complaint(0, complaint)
    assert server.complaints[0] == Complaint.decode(peek(complaint)[0])
    assert (server.complaints[0].accused, server.complaints[0].reason) == (2, SEAL)
    for i in (1, 2, 3):
        assert server.add_upload(i, *fed.organizations[i].mask(inboxes[i], fed.vectors[i]))
    bundle = server.close_uploads()
    for i in (1, 2, 3):
        assert server.add_survival(i, fed.organizations[i].survive(bundle))
    quorum = server.close_survival()
    for i in (1, 2, 3):
        server.add_reveal(i, fed.organizations[i].unmask(quorum))
    assert np.allclose(server.result().values, fed.vectors[1:].sum(axis=0), atol=1e-4)
    assert left_out(server.complaints.values(), 4, least_threshold(4)) == (2,)


def test_who_complained_is_done_with_this_attempt(federation: Build, refusal: Build) -> None:
    """No upload after a complaint, no second complaint, no secret kept."""
    fed = federation(4)
    inboxes, _ = disputed(fed)
    victim = fed.organizations[0]
    assert refusal(victim.mask, inboxes[0], fed.vectors[0]) == "phase"
    assert refusal(victim.complain, Refused("share.seal", "again", 2)) == "phase"
    assert not victim._state.secrets
    assert not victim._state.held
    with pytest.raises(ValueError, match="no ground"):
        fed.organizations[1].complain(Refused("shares.leaf", "the server did this", 2))


def test_complaints_that_are_not_kept(federation: Build) -> None:
    """Of another view, in another's name, about nobody or oneself, for no known reason, too early."""
    fed = federation(4)
    _, complaint = disputed(fed)
    own = Complaint.decode(peek(complaint)[0])
    server = fed.coordinator
    for body, key, code in (
        (replace(own, ctx1=b"x" * 32), 0, "message.context"),
        (replace(own, index=1), 1, "message.index"),
        (own, 1, "wire.signature"),
        (replace(own, accused=0), 0, "complaint.stranger"),
        (replace(own, accused=7), 0, "complaint.stranger"),
        (replace(own, reason=4), 0, "complaint.reason"),
    ):
        assert not server.add_complaint(0, seal("complaint", body.encode(), fed.keys[key]))
        assert server.rejections[-1].code == code
    assert not server.complaints
    early = federation(4)
    early.advertise()
    assert not early.coordinator.add_complaint(0, complaint)
    assert early.coordinator.rejections[-1].code == "message.late"
