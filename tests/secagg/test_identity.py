"""Identities: what verifies, and that half of a hybrid signature is none."""

import pytest
from cotune.secagg.identity import HybridIdentity, new_identity, raw_public, verify
from cotune.secagg.suites import CLASSIC, HYBRID, Suite

MESSAGE = b"what is signed"


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def test_sizes_and_an_honest_signature(suite: Suite) -> None:
    identity = new_identity(suite)
    public, signature = raw_public(identity), identity.sign(MESSAGE)
    assert (len(public), len(signature)) == (suite.identity_bytes, suite.signature_bytes)
    assert verify(public, signature, MESSAGE)


def test_anything_else_does_not_verify(suite: Suite) -> None:
    identity, stranger = new_identity(suite), new_identity(suite)
    public, signature = raw_public(identity), identity.sign(MESSAGE)
    assert not verify(public, signature, MESSAGE + b"x")
    assert not verify(public, stranger.sign(MESSAGE), MESSAGE)
    assert not verify(raw_public(stranger), signature, MESSAGE)
    for bad in (b"", signature[:-1], signature + b"\0", bytes(len(signature))):
        assert not verify(public, bad, MESSAGE)
    for bad in (b"", public[:-1], public + b"\0", bytes(31), bytes(33), b"\xff" * len(public)):
        assert not verify(bad, signature, MESSAGE)
    for at in range(0, len(signature), 97):
        assert not verify(public, flipped(signature, at), MESSAGE)


def halves() -> tuple[HybridIdentity, bytes, bytes]:
    identity = new_identity(HYBRID)
    assert isinstance(identity, HybridIdentity)
    return identity, raw_public(identity), identity.sign(MESSAGE)


def test_one_right_half_is_not_enough() -> None:
    """A forger who broke either scheme, but not both."""
    _, public, signature = halves()
    _, _, foreign = halves()
    curve, lattice = signature[:64], signature[64:]
    assert verify(public, curve + lattice, MESSAGE)
    assert not verify(public, curve + foreign[64:], MESSAGE)
    assert not verify(public, foreign[:64] + lattice, MESSAGE)
    assert not verify(public, curve, MESSAGE)
    assert not verify(public, lattice, MESSAGE)
    assert not verify(public, lattice + curve, MESSAGE)


def test_a_stripped_half_is_no_signature_of_the_classic_suite() -> None:
    """The domain in front of the message keeps the Ed25519 half from being a plain signature."""
    identity, public, signature = halves()
    assert not verify(public[:32], signature[:64], MESSAGE)
    plain = identity.curve.sign(MESSAGE)
    assert verify(public[:32], plain, MESSAGE)
    assert not verify(public, plain + signature[64:], MESSAGE)


@pytest.mark.parametrize("at", [0, 31, 32, 40, 1983])
def test_both_halves_of_the_key_count(at: int) -> None:
    _, public, signature = halves()
    assert not verify(flipped(public, at), signature, MESSAGE)


def test_fresh_identities_differ() -> None:
    for suite in (CLASSIC, HYBRID):
        one, other = (raw_public(new_identity(suite)) for _ in range(2))
        assert one[:32] != other[:32]
        assert suite is CLASSIC or one[32:] != other[32:]
