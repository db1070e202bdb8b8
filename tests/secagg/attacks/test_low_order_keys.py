"""Keys of low order: X25519 with one of these points gives zero, whatever the other secret is.

Attacker: a colluding organization, or a server where keys are not signed. Gain without the check: the "agreed" value is
known to everybody, so the seeds of all its pairs and its boxes are open. Stopped by `keys.public`, at the coordinator
and at each organization. In the hybrid suite ML-KEM still holds then; the key is refused all the same.
Source: RFC 7748, sections 5 and 6.1; Bernstein, https://cr.yp.to/ecdh.html#validate.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cotune.secagg.messages import Advert
from cotune.secagg.suites import CLASSIC, HYBRID, X25519_BYTES
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]
P = 2**255 - 19
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
POINTS = [0, 1, P - 1, P, P + 1, *ORDER_8]
ENCODINGS = [point.to_bytes(32, "little") for point in POINTS]
ENCODINGS += [(point | 1 << 255).to_bytes(32, "little") for point in POINTS]  # the unused top bit


def weak(honest: bytes, point: bytes) -> bytes:
    """The key with its curve half replaced."""
    return point + honest[X25519_BYTES:]


def ladder(secret: bytes, point: int) -> int:
    """X25519 as RFC 7748 writes it, without a look at the result."""
    scalar = int.from_bytes(secret, "little") & ~7 & (2**254 - 1) | 1 << 254
    x1, x2, z2, x3, z3 = point, 1, 0, point, 1
    for bit in range(254, -1, -1):
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        e = a * a - b * b
        x3, z3 = (d * a + c * b) ** 2 % P, x1 * (d * a - c * b) ** 2 % P
        x2, z2 = a * a * b * b % P, e * (a * a + 121665 * e) % P
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return x2 * pow(z2, P - 2, P) % P


def test_without_the_check_everybody_knows_the_agreed_value() -> None:
    secrets = [bytes([fill]) * 32 for fill in (1, 77, 254)]
    assert {ladder(secret, point % P) for secret in secrets for point in POINTS} == {0}
    assert ladder(secrets[0], 9) == int.from_bytes(CLASSIC.public_half(secrets[0]), "little")


def test_every_point_of_low_order_is_refused(suite: Any, refusal: Build) -> None:
    honest = suite.public_half(b"h" * 32)
    suite.check_public(honest)
    for point in ENCODINGS:
        forged = weak(honest, point)
        assert refusal(suite.check_public, forged) == "keys.public"
        assert refusal(suite.exchange, b"s" * 32, forged) == "keys.public"


def test_the_other_half_of_a_hybrid_key_must_be_one(refusal: Build) -> None:
    """Coefficients beyond the modulus (FIPS 203, section 7.2)."""
    honest = HYBRID.public_half(b"h" * 32)
    forged = honest[:X25519_BYTES] + b"\xff" * (len(honest) - X25519_BYTES)
    assert refusal(HYBRID.check_public, forged) == "keys.public"
    assert refusal(HYBRID.encapsulate, forged) == "keys.public"


def test_the_coordinator_counts_no_such_advert(federation: Build) -> None:
    fed = federation(3)
    organization = fed.begin(0)
    own = Advert.decode(peek(organization.advert)[0])
    for point in ENCODINGS[:3]:
        bad = replace(own, mask_key=weak(own.mask_key, point))
        assert not fed.coordinator.add_advert(0, seal("advert", bad.encode(), fed.keys[0]))
        assert fed.coordinator.rejections[-1].code == "keys.public"
    assert fed.coordinator.add_advert(0, organization.advert)


@pytest.mark.parametrize(("name", "step"), [("channel_key", "share"), ("mask_key", "mask")])
def test_an_organization_derives_no_key_from_it(federation: Build, refusal: Build, name: str, step: str) -> None:
    """The server lets the colluder's advert pass. The boxes, or at the latest the masks, are not made."""
    fed = federation(4)
    own = fed.begin(2)
    advert = Advert.decode(peek(own.advert)[0])
    point = weak(getattr(advert, name), ENCODINGS[1])
    own._state.advert = seal("advert", replace(advert, **{name: point}).encode(), fed.keys[2])
    fed.organizations = {i: own if i == 2 else fed.begin(i) for i in range(4)}
    fed.coordinator._suite = type("Blind", (), {"check_public": staticmethod(lambda public: None)})()
    assert all(fed.coordinator.add_advert(i, organization.advert) for i, organization in fed.organizations.items())
    fed.coordinator._suite = fed.suite
    bundle = fed.coordinator.close_adverts()
    victim = fed.organizations[0]
    if step == "mask":
        for i, organization in fed.organizations.items():
            assert fed.coordinator.add_shares(i, organization.share(bundle))
        inbox = fed.coordinator.close_shares()[0]
        assert refusal(victim.mask, inbox, fed.vectors[0]) == "keys.public"
    else:
        assert refusal(victim.share, bundle) == "keys.public"


def test_keys_of_a_wrong_length(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(4)
    bundle = fed.advertise()
    own = Advert.decode(peek(fed.organizations[2].advert)[0])
    for key in (b"", own.mask_key[:-1], own.mask_key + b"\0"):
        bad = seal("advert", replace(own, mask_key=key).encode(), fed.keys[2])
        assert refusal(fed.organizations[0].share, hostile(fed).swap("adverts", bundle, 2, bad)) == "adverts.key"
        assert refusal(fed.suite.check_public, key) == "keys.public"
