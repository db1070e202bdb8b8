"""The primitives of both suites: sizes, wrong keys, failed decapsulation."""

from itertools import pairwise

import pytest
from cotune.secagg import keys
from cotune.secagg.refused import Refused
from cotune.secagg.suites import CLASSIC, HYBRID, SUITES, Suite, suite_of

CTX = b"c" * 32


def pair(suite: Suite) -> tuple[bytes, bytes]:
    secret = keys.new_secret()
    return secret, suite.public_half(secret)


def flipped(raw: bytes, at: int = 0) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def test_sizes(suite: Suite) -> None:
    secret, public = pair(suite)
    agreed, ciphertext = suite.encapsulate(public)
    assert (len(public), len(agreed), len(ciphertext)) == (suite.public_bytes, suite.kem_bytes, suite.ciphertext_bytes)
    assert suite.decapsulate(secret, ciphertext) == agreed
    plain = bytes(2 * 66)
    assert len(keys.seal_share(suite, secret, public, CTX, 0, 1, plain)) == suite.sealed_bytes
    assert len(keys.offer(suite, secret, public, CTX, 0, 1)[1]) == suite.offer_bytes
    assert suite.box_bytes == suite.sealed_bytes + suite.offer_bytes + 2 * 32


def test_known_suites() -> None:
    assert {id: suite.id for id, suite in SUITES.items()} == {1: 1, 2: 2}
    assert suite_of(2) is HYBRID
    for unknown in (0, 3, 65535):
        with pytest.raises(Refused) as no:
            suite_of(unknown)
        assert no.value.code == "plan.suite"


def test_a_public_key_follows_from_its_secret(suite: Suite) -> None:
    secret, public = pair(suite)
    assert suite.public_half(secret) == public
    assert suite.public_half(flipped(secret, 31)) != public


def test_the_exchange_is_the_same_from_both_sides(suite: Suite) -> None:
    (one, one_public), (other, other_public) = pair(suite), pair(suite)
    assert suite.exchange(one, other_public) == suite.exchange(other, one_public)
    assert suite.exchange(one, one_public) != suite.exchange(one, other_public)


@pytest.mark.parametrize("change", ["short", "long", "empty", "low order"])
def test_keys_that_cannot_be_used(suite: Suite, change: str) -> None:
    _, public = pair(suite)
    bad = {"short": public[:-1], "long": public + b"x", "empty": b"", "low order": bytes(32) + public[32:]}[change]
    with pytest.raises(Refused) as no:
        suite.check_public(bad)
    assert no.value.code == "keys.public"


def test_a_lattice_key_out_of_range_is_refused() -> None:
    """FIPS 203, section 7.2: a coefficient that is not below q = 3329."""
    _, public = pair(HYBRID)
    with pytest.raises(Refused) as no:
        HYBRID.check_public(public[:32] + b"\xff" * 1152 + public[-32:])
    assert no.value.code == "keys.public"


def test_a_key_of_the_other_suite_is_refused() -> None:
    for one, other in ((CLASSIC, HYBRID), (HYBRID, CLASSIC)):
        with pytest.raises(Refused):
            one.check_public(pair(other)[1])


def test_the_two_curve_halves_do_not_meet() -> None:
    """A secret gives another X25519 key in each suite, so nothing of suite 1 is of use in suite 2."""
    secret = keys.new_secret()
    assert HYBRID.public_half(secret)[:32] != CLASSIC.public_half(secret)


@pytest.mark.parametrize("at", [0, 700, 1087])
def test_an_altered_ciphertext_gives_another_secret_and_no_error(at: int) -> None:
    """FIPS 203, implicit rejection; the wrong secret is then noticed by the seal."""
    secret, public = pair(HYBRID)
    agreed, ciphertext = HYBRID.encapsulate(public)
    wrong = HYBRID.decapsulate(secret, flipped(ciphertext, at))
    assert len(wrong) == 32
    assert wrong != agreed


def test_every_part_of_a_sealed_share_counts(suite: Suite) -> None:
    (one, one_public), (other, other_public) = pair(suite), pair(suite)
    sealed = keys.seal_share(suite, one, other_public, CTX, 4, 7, b"two shares")
    assert keys.open_share(suite, other, one_public, CTX, 4, 7, sealed) == b"two shares"
    positions = [0, len(sealed) - 1, suite.ciphertext_bytes, suite.ciphertext_bytes + 12]
    wrong = [(other, one_public, CTX, 4, 7, flipped(sealed, at)) for at in positions]
    wrong += [
        (other, one_public, CTX, 7, 4, sealed),
        (other, one_public, b"d" * 32, 4, 7, sealed),
        (other, other_public, CTX, 4, 7, sealed),
        (one, one_public, CTX, 4, 7, sealed),
        (other, one_public, CTX, 4, 7, sealed[:-1]),
        (other, one_public, CTX, 4, 7, b""),
    ]
    for arguments in wrong:
        with pytest.raises(Refused) as no:
            keys.open_share(suite, *arguments)
        assert (no.value.code, no.value.member) == ("share.seal", arguments[3])


def test_a_box_needs_both_agreements() -> None:
    """Whoever breaks one half of suite 2 still cannot open a share: the other half is in the key."""
    (one, _), (other, other_public) = pair(HYBRID), pair(HYBRID)
    curve_of_one = HYBRID.public_half(one)[:32]
    sealed = keys.seal_share(HYBRID, one, other_public, CTX, 0, 1, b"shares")
    ciphertext, rest = sealed[:1088], sealed[1088:]
    info = keys._info("channel", 0, 1, ciphertext)
    from_curve = HYBRID.exchange(other, curve_of_one)
    from_lattice = HYBRID.decapsulate(other, ciphertext)
    aad = keys._associated(CTX, 0, 1)
    both = keys.AESGCM(keys._derive(from_curve + from_lattice, CTX, info))
    assert both.decrypt(rest[:12], rest[12:], aad) == b"shares"
    for half in (from_curve + bytes(32), bytes(32) + from_lattice, from_curve, from_lattice):
        with pytest.raises(keys.InvalidTag):
            keys.AESGCM(keys._derive(half, CTX, info)).decrypt(rest[:12], rest[12:], aad)


def test_a_rebuilt_mask_secret_gives_both_offers(suite: Suite) -> None:
    """What the server does for a dropout: `recall` what it offered, `accept` what it was offered."""
    (one, one_public), (other, other_public) = pair(suite), pair(suite)
    from_one, carried_one = keys.offer(suite, one, other_public, CTX, 0, 1)
    from_other, carried_other = keys.offer(suite, other, one_public, CTX, 1, 0)
    recalled = keys.recall(suite, one, CTX, 0, 1, carried_one)
    accepted = keys.accept(suite, one, CTX, 1, 0, carried_other)
    assert (recalled, accepted) == (from_one, from_other)
    at_one = keys.agreement(0, 1, from_one, accepted)
    at_other = keys.agreement(1, 0, from_other, keys.accept(suite, other, CTX, 0, 1, carried_one))
    assert at_one == at_other == keys.agreement(0, 1, recalled, accepted)
    seeds = [
        keys.pair_seed(suite, one, other_public, CTX, 0, 1, at_one),
        keys.pair_seed(suite, other, one_public, CTX, 1, 0, at_other),
    ]
    assert seeds[0] == seeds[1]
    if suite is HYBRID:
        assert keys.pair_seed(suite, one, other_public, CTX, 0, 1, flipped(at_one)) != seeds[0]


def test_an_offer_that_is_not_what_was_committed_to_names_its_sender() -> None:
    """Ciphertext, wrapping, commitment, pair and context: each is held to the others from both ways in."""
    (one, _), (other, other_public) = pair(HYBRID), pair(HYBRID)
    _, carried = keys.offer(HYBRID, one, other_public, CTX, 0, 1)
    at_wrapping, at_commitment = HYBRID.ciphertext_bytes, len(carried) - 1
    accepted = [(other, CTX, 0, 1, flipped(carried)), (other, CTX, 0, 1, flipped(carried, at_commitment))]
    recalled = [(one, CTX, 0, 1, flipped(carried, at_wrapping)), (one, CTX, 0, 1, flipped(carried, at_commitment))]
    elsewhere = [(CTX, 0, 2), (CTX, 2, 1), (CTX, 1, 0), (b"d" * 32, 0, 1)]
    accepted += [(other, *place, carried) for place in elsewhere] + [(one, CTX, 0, 1, carried)]
    recalled += [(one, *place, carried) for place in elsewhere] + [(other, CTX, 0, 1, carried)]
    for way, wrong in ((keys.accept, accepted), (keys.recall, recalled)):
        for arguments in wrong:
            with pytest.raises(Refused) as no:
                way(HYBRID, *arguments)
            assert (no.value.code, no.value.member) == ("share.offer", arguments[2])


def test_seeds_are_all_different(suite: Suite) -> None:
    """By kind, pair, context and direction of the channel."""
    (one, _), (_, public) = pair(suite), pair(suite)
    agreed = bytes(2 * suite.kem_bytes)
    seeds = [keys.pair_seed(suite, one, public, CTX, *indices, agreed) for indices in ((0, 1), (0, 2), (1, 2))]
    seeds += [keys.pair_seed(suite, one, public, b"d" * 32, 0, 1, agreed)]
    seeds += [keys.self_seed(one, CTX, 0), keys.self_seed(one, CTX, 1), keys.self_seed(one, b"d" * 32, 0)]
    assert all(a != b for a, b in pairwise(sorted(seeds)))
    assert keys.pair_seed(suite, one, public, CTX, 1, 0, agreed) == seeds[0]
