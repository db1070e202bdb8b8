"""Man in the middle: the server answers in the place of the other organizations.

Attacker: a coordinator with its genuine key. It gives the victim round keys of its own for every peer.
Gain without the check: every other member of the cohort is a ghost, so the "sum" is the victim's vector plus numbers
that the server chose. Stopped by the identity signatures of the pinned roster (`wire.signature`).
Source: Bonawitz et al. 2017, section 6.2 (active adversaries); Flower 1.41 signs no key, see test_flower_secagg.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cotune.secagg.identity import new_identity
from cotune.secagg.messages import Rooted
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]


def haunt(fed: Any) -> None:
    """Everybody but organization 0 becomes a ghost of the server's."""
    fed.keys = [fed.keys[0], *(new_identity(fed.suite) for _ in range(fed.n - 1))]


def test_without_signatures_the_server_reads_the_victim(federation: Build, without: Build) -> None:
    fed = federation(4)
    haunt(fed)
    without("wire.signature", "state.identity")
    total = fed.play().values
    assert np.allclose(total - fed.vectors[1:].sum(axis=0), fed.vectors[0], atol=1e-3)


def test_the_victim_refuses_the_first_ghost(federation: Build, hostile: Build, refusal: Build, without: Build) -> None:
    fed = federation(4)
    bundle, victim = fed.advertise(), fed.organizations[0]
    haunt(fed)
    without("state.identity")  # the server's own code may do as it likes
    for i in range(1, 4):
        fed.journals[i] = type(fed.journals[i])()
        ghost = fed.begin(i).advert
        bad = hostile(fed).swap("adverts", bundle, i, ghost)
        assert refusal(victim.share, bad) == "wire.signature"


@pytest.mark.parametrize("kind", ["upload", "survive"])
def test_later_messages_cannot_be_swapped_either(federation: Build, hostile: Build, refusal: Build, kind: str) -> None:
    """A ghost that begins after P1: an upload or a signature in the name of organization 1."""
    fed = federation(4)
    survivors = fed.upload()
    victim, step = fed.organizations[0], "survivors"
    forged = Rooted(victim.context, 1, b"x" * 32)
    call = victim.survive
    if kind == "survive":
        messages = [fed.organizations[i].survive(survivors) for i in range(4)]
        assert all(fed.coordinator.add_survival(i, message) for i, message in enumerate(messages))
        survivors, step, call = fed.coordinator.close_survival(), "quorum", victim.unmask
        forged = Rooted.decode(peek(messages[1])[0])
    for key in (fed.coordinator_key, fed.keys[2], new_identity(fed.suite)):
        swapped = seal(kind, forged.encode(), key)
        bad = hostile(fed).swap(step, survivors, 1, swapped)
        assert refusal(call, bad) == "wire.signature"


def test_share_roots_cannot_be_swapped(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(4)
    inbox = fed.share()[0]

    def swap(parts: list[Any]) -> None:
        body = peek(parts[1].root)[0]
        parts[1] = type(parts[1])(seal("shares", body, fed.coordinator_key), parts[1].path, parts[1].box)

    assert refusal(fed.organizations[0].mask, hostile(fed).reinbox(inbox, swap), fed.vectors[0]) == "wire.signature"


def test_nobody_else_speaks_for_the_coordinator(federation: Build, witness: Build, refusal: Build) -> None:
    """A member, or anybody on the way, signs bundles: none of the five is read."""
    fed = federation(3)
    seen = witness(fed)
    fed.journals = [type(journal)() for journal in fed.journals]

    def swapped(kind: str, envelope: bytes) -> bytes:
        return seal(kind, peek(envelope)[0], fed.keys[1])

    assert refusal(fed.begin, 0, swapped("plan", seen.plan)) == "wire.signature"
    victim = fed.begin(0)
    assert refusal(victim.share, swapped("adverts", seen.adverts)) == "wire.signature"
    again = federation(3)
    inbox = again.share()[0]
    victim = again.organizations[0]
    assert refusal(victim.mask, seal("inbox", peek(inbox)[0], again.keys[1]), fed.vectors[0]) == "wire.signature"
    victim.mask(inbox, fed.vectors[0])
    assert refusal(victim.survive, swapped("survivors", seen.survivors)) == "wire.signature"
    with_signatures = federation(3)
    quorum = with_signatures.survive()
    victim = with_signatures.organizations[0]
    assert refusal(victim.unmask, seal("quorum", peek(quorum)[0], with_signatures.keys[1])) == "wire.signature"


def test_a_signature_counts_for_its_kind_alone(federation: Build, hostile: Build, refusal: Build) -> None:
    """The bodies of three kinds look alike; a signed share root is no signature on survivors."""
    fed = federation(4)
    quorum = fed.survive()
    victim = fed.organizations[0]
    body = Rooted(victim.context, 1, victim._state.statement).encode()
    for kind in ("shares", "upload"):
        bad = hostile(fed).swap("quorum", quorum, 1, seal(kind, body, fed.keys[1]))
        assert refusal(victim.unmask, bad) == "wire.signature"
