"""Downgrade: the classic suite is offered where the roster says hybrid, or one half of a hybrid key or signature.

Attacker: the coordinator, or somebody with a quantum computer that records everything today. Gain without the checks:
X25519 and Ed25519 alone, which Shor's algorithm breaks. Stopped by the suite in the pinned roster and its hash
(`plan.suite`, `plan.roster`, `roster.key`), by the sizes of every key (`adverts.key`), and by signatures of which both
halves must hold (`wire.signature`). Source: Bhargavan et al. 2016 on downgrade resilience; FIPS 203 and 204.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cotune.secagg import keys
from cotune.secagg.identity import HybridIdentity, new_identity, raw_public
from cotune.secagg.messages import Advert
from cotune.secagg.suites import CLASSIC, HYBRID, SUITES, suite_of
from cotune.secagg.wire import Writer, digest, peek, seal, unseal

Build = Callable[..., Any]


@pytest.fixture(scope="module")
def other(suite: Any) -> Any:
    """The suite that the federation does not use."""
    return HYBRID if suite is CLASSIC else CLASSIC


def test_a_plan_for_another_suite(federation: Build, refusal: Build, other: Any) -> None:
    fed = federation(3)
    assert refusal(fed.begin, 0, fed.plan(suite=other.id).sign(fed.coordinator_key)) == "plan.suite"
    assert refusal(fed.begin, 0, fed.plan(suite=3).sign(fed.coordinator_key)) == "plan.suite"
    for unknown in (0, 3, 65535):
        assert refusal(suite_of, unknown) == "plan.suite"
    assert sorted(SUITES) == [1, 2]


def test_a_roster_for_another_suite(federation: Build, refusal: Build, other: Any) -> None:
    """Its keys do not fit; and with keys that fit it is another roster than the pinned one."""
    fed = federation(3)
    assert refusal(replace, fed.roster, suite=other.id) == "roster.key"
    assert refusal(replace, fed.roster, suite=9) == "plan.suite"
    curves = [key.curve if isinstance(key, HybridIdentity) else key for key in fed.keys]
    if fed.suite is HYBRID:
        members = tuple(raw_public(curve) for curve in curves)
        classic = replace(fed.roster, members=members, coordinator=raw_public(new_identity()), suite=1)
        plan = fed.plan(roster_hash=classic.hash).sign(fed.coordinator_key)
        assert refusal(fed.begin, 0, plan) == "plan.roster"


def test_an_advert_with_keys_of_another_suite(federation: Build, hostile: Build, refusal: Build, other: Any) -> None:
    """Organization 1 colludes and offers classic keys in a hybrid round, or the other way round."""
    fed = federation(4)
    bundle = fed.advertise()
    own = Advert.decode(peek(fed.organizations[1].advert)[0])
    for name in ("mask_key", "channel_key"):
        weak = replace(own, **{name: other.public_half(keys.new_secret())})
        forged = seal("advert", weak.encode(), fed.keys[1])
        bad = hostile(fed).swap("adverts", bundle, 1, forged)
        assert refusal(fed.organizations[0].share, bad) == "adverts.key"


@pytest.mark.parametrize("suite", [HYBRID], ids=["hybrid"], indirect=True)
def test_half_a_signature(refusal: Build, federation: Build, hostile: Build) -> None:
    """The attacker broke Ed25519, or ML-DSA-65, or strips the envelope down to the classic length."""
    fed = federation(4)
    bundle = fed.advertise()
    key, stranger = fed.keys[1], new_identity(HYBRID)
    body = peek(fed.organizations[1].advert)[0]
    message = digest("advert", body)
    curve, lattice = key.sign(message)[:64], key.sign(message)[64:]
    for signature in (
        curve + stranger.sign(message)[64:],
        stranger.sign(message)[:64] + lattice,
        curve,
        key.curve.sign(message),
        lattice,
    ):
        bad = hostile(fed).swap("adverts", bundle, 1, bytes(Writer().blob(body).blob(signature)))
        assert refusal(fed.organizations[0].share, bad) == "wire.signature"


def test_a_half_is_no_signature_of_the_other_suite(refusal: Build) -> None:
    """The Ed25519 half of a hybrid signature, for a roster in which that key stands alone."""
    hybrid = new_identity(HYBRID)
    assert isinstance(hybrid, HybridIdentity)
    signature = peek(seal("advert", b"body", hybrid))[1]
    half = bytes(Writer().blob(b"body").blob(signature[:64]))
    assert refusal(unseal, "advert", half, raw_public(hybrid.curve)) == "wire.signature"
    assert unseal("advert", seal("advert", b"body", hybrid.curve), raw_public(hybrid.curve)) == b"body"


def test_who_breaks_one_half_of_an_agreement_has_no_seed(federation: Build) -> None:
    """In the classic suite the X25519 secret is the mask. In the hybrid one the ML-KEM secrets are missing."""
    fed = federation(3)
    one, other = keys.new_secret(), keys.new_secret()
    ctx2, publics = b"c" * 32, [fed.suite.public_half(secret) for secret in (one, other)]
    from_one, carried_one = keys.offer(fed.suite, one, publics[1], b"1" * 32, 0, 1)
    from_other, carried_other = keys.offer(fed.suite, other, publics[0], b"1" * 32, 1, 0)
    assert keys.accept(fed.suite, other, b"1" * 32, 0, 1, carried_one) == from_one
    assert keys.recall(fed.suite, one, b"1" * 32, 0, 1, carried_one) == from_one
    assert keys.accept(fed.suite, one, b"1" * 32, 1, 0, carried_other) == from_other
    agreed = keys.agreement(0, 1, from_one, from_other)
    seed = keys.pair_seed(fed.suite, one, publics[1], ctx2, 0, 1, agreed)
    assert seed == keys.pair_seed(fed.suite, other, publics[0], ctx2, 1, 0, keys.agreement(1, 0, from_other, from_one))
    blind = keys.pair_seed(fed.suite, one, publics[1], ctx2, 0, 1, bytes(len(agreed)))
    half = keys.pair_seed(fed.suite, one, publics[1], ctx2, 0, 1, from_one + bytes(len(from_other)))
    assert (seed in (blind, half)) == (fed.suite is CLASSIC)
