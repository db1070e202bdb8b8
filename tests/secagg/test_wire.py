"""Strict parsers: exactly what was written, or a refusal."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from cotune.secagg.identity import raw_public
from cotune.secagg.messages import SEAL, Advert, Complaint, Reveal, Rooted, Shares, decode_inbox, decode_list
from cotune.secagg.plan import Plan
from cotune.secagg.record import RoundRecord
from cotune.secagg.refused import Refused
from cotune.secagg.state import State
from cotune.secagg.wire import MAX_MESSAGE, Reader, Writer, digest, peek, seal, unseal
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

Build = Callable[..., Any]
Parser = Callable[[bytes], object]
PARSERS: dict[str, Parser] = {
    "plan": Plan.decode,
    "advert": Advert.decode,
    "rooted": Rooted.decode,
    "shares": Shares.decode,
    "complaint": Complaint.decode,
    "inbox": decode_inbox,
    "list": decode_list,
    "reveal": Reveal.decode,
    "record": RoundRecord.decode,
    "state": State.decode,
    "envelope": peek,
}


@pytest.fixture(scope="module")
def samples(federation: Build) -> dict[str, bytes]:
    """One honest message for each parser."""
    fed = federation(3)
    bundle = fed.advertise()
    shares = {i: fed.organizations[i].share(bundle) for i in range(3)}
    for i, message in shares.items():
        fed.coordinator.add_shares(i, message)
    inboxes = fed.coordinator.close_shares()
    for i in range(3):
        fed.coordinator.add_upload(i, *fed.organizations[i].mask(inboxes[i], fed.vectors[i]))
    survivors = fed.coordinator.close_uploads()
    signed = [fed.organizations[i].survive(survivors) for i in range(3)]
    state = fed.organizations[0].dump()
    for i in range(3):
        fed.coordinator.add_survival(i, signed[i])
    quorum = fed.coordinator.close_survival()
    reveals = [fed.organizations[i].unmask(quorum) for i in range(3)]
    for i in range(3):
        fed.coordinator.add_reveal(i, reveals[i])
    return {
        "plan": fed.plan().encode(),
        "advert": peek(fed.organizations[0].advert)[0],
        "rooted": peek(signed[0])[0],
        "shares": shares[0],
        "complaint": Complaint(bytes(32), 0, 1, SEAL).encode(),
        "inbox": peek(inboxes[0])[0],
        "list": peek(quorum)[0],
        "reveal": peek(reveals[0])[0],
        "record": peek(fed.coordinator.result().record)[0],
        "state": state,
        "envelope": quorum,
    }


@pytest.mark.parametrize("name", PARSERS)
def test_every_truncation_and_every_extension_is_refused(samples: dict[str, bytes], name: str) -> None:
    raw, parse = samples[name], PARSERS[name]
    parse(raw)
    for cut in range(len(raw)):
        with pytest.raises(Refused):
            parse(raw[:cut])
    for tail in (b"\x00", b"\xff" * 9, raw):
        with pytest.raises(Refused):
            parse(raw + tail)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_altered_bytes_are_refused_or_parse_without_any_other_error(
    samples: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    raw = bytearray(samples[name])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Refused):
        PARSERS[name](bytes(raw))


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=80, deadline=None)
@given(raw=st.binary(max_size=400))
def test_any_bytes_are_refused_or_have_one_encoding(name: str, raw: bytes) -> None:
    try:
        value = PARSERS[name](raw)
    except Refused:
        return
    if isinstance(value, Plan | Advert | Rooted | Shares | Reveal):
        assert value.encode() == raw


@pytest.mark.parametrize("name", PARSERS)
def test_oversize_is_refused_before_it_is_read(name: str) -> None:
    with pytest.raises(Refused) as no:
        PARSERS[name](bytes(MAX_MESSAGE + 1))
    assert no.value.code in ("wire.oversize", "state.format")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\x00\xc9" + bytes(402), "wire.count"),
        (b"\x00\x02\x00\x05\x00\x05", "wire.indices"),
        (b"\x00\x02\x00\x05\x00\x04", "wire.indices"),
        (b"\x00\x01\x00\xc8", "wire.indices"),
    ],
)
def test_index_lists_are_sorted_distinct_and_bounded(raw: bytes, code: str) -> None:
    with pytest.raises(Refused) as no:
        Reader(raw).indices()
    assert no.value.code == code


@pytest.mark.parametrize("raw", ["7ff0000000000000", "fff0000000000000", "7ff8000000000001", "8000000000000000"])
def test_numbers_are_finite_and_canonical(raw: str) -> None:
    with pytest.raises(Refused):
        Reader(bytes.fromhex(raw)).real()


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_different_parts_have_different_digests(one: list[bytes], other: list[bytes]) -> None:
    assert (digest("a", *one) == digest("a", *other)) == (one == other)
    assert digest("a", *one) != digest("b", *one)


def test_digest_of_a_view_is_that_of_its_bytes() -> None:
    assert digest("a", memoryview(b"abcd").cast("H").cast("B")) == digest("a", b"abcd")


def test_an_envelope_holds_for_one_kind_body_and_key() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    envelope = seal("kind", b"body", key)
    assert unseal("kind", envelope, raw_public(key)) == b"body"
    forged = bytes(Writer().blob(b"bodz").blob(envelope[-64:]))
    for kind, raw, public in (
        ("other", envelope, raw_public(key)),
        ("kind", envelope, raw_public(other)),
        ("kind", forged, raw_public(key)),
        ("kind", envelope, b"\xff" * 32),
    ):
        with pytest.raises(Refused) as no:
            unseal(kind, raw, public)
        assert no.value.code == "wire.signature"


def test_state_survives_its_encoding(samples: dict[str, bytes]) -> None:
    assert State.decode(samples["state"]).encode() == samples["state"]
