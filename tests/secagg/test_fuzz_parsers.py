"""Foreign bytes: `Refused` is all that comes out, memory stays small, and what is accepted has one encoding.

Honest messages of both suites are bent: bits, length fields, huge counts, pieces of other messages.
"""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.secagg import transcript
from cotune.secagg.coordinator import Coordinator
from cotune.secagg.evidence import Evidence
from cotune.secagg.identity import new_identity
from cotune.secagg.journal import FileJournal
from cotune.secagg.messages import (
    SEAL,
    Advert,
    Complaint,
    Reveal,
    Rooted,
    Shares,
    decode_inbox,
    decode_list,
    encode_inbox,
    encode_list,
)
from cotune.secagg.opening import Opened, Opening
from cotune.secagg.plan import Plan
from cotune.secagg.record import RoundRecord, genesis, verify
from cotune.secagg.refused import Refused
from cotune.secagg.state import State
from cotune.secagg.wire import MAX_MESSAGE, Writer, peek, seal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Build = Callable[..., Any]
SIGNER = new_identity()
# Each parser of foreign bytes, and the way back.
PARSERS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "plan": (Plan.decode, Plan.encode),
    "advert": (Advert.decode, Advert.encode),
    "rooted": (Rooted.decode, Rooted.encode),
    "shares": (Shares.decode, Shares.encode),
    "inbox": (decode_inbox, lambda value: encode_inbox(*value)),
    "list": (decode_list, lambda value: encode_list(*value)),
    "complaint": (Complaint.decode, Complaint.encode),
    "reveal": (Reveal.decode, Reveal.encode),
    "opening": (Opening.decode, Opening.encode),
    "opened": (Opened.decode, Opened.encode),
    "evidence": (Evidence.decode, Evidence.encode),
    "record": (RoundRecord.decode, lambda record: peek(record.sign(SIGNER))[0]),
    "state": (State.decode, State.encode),
    "envelope": (peek, lambda value: bytes(Writer().blob(value[0]).blob(value[1]))),
}
CALM = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def round_(federation: Build, spoiled: Build) -> Any:
    """A round that ended well; `samples` are its bodies by parser, `dumps` and `bundles` by phase (organization 0)."""
    fed = federation(4)
    server, dumps, bundles = fed.coordinator, {}, {}
    bundles["adverts"] = fed.advertise()
    dumps["adverts"] = fed.organizations[0].dump()
    shares = {i: fed.organizations[i].share(bundles["adverts"]) for i in range(4)}
    for i, message in shares.items():
        server.add_shares(i, message)
    inboxes = server.close_shares()
    bundles["inbox"], dumps["inbox"] = inboxes[0], fed.organizations[0].dump()
    fed.uploads = {i: fed.organizations[i].mask(inboxes[i], fed.vectors[i]) for i in range(3)}
    for i, upload in fed.uploads.items():
        server.add_upload(i, *upload)
    bundles["survivors"], dumps["survivors"] = server.close_uploads(), fed.organizations[0].dump()
    signed = {i: fed.organizations[i].survive(bundles["survivors"]) for i in range(3)}
    for i, message in signed.items():
        server.add_survival(i, message)
    bundles["quorum"], dumps["quorum"] = server.close_survival(), fed.organizations[0].dump()
    reveals = {i: fed.organizations[i].unmask(bundles["quorum"]) for i in range(3)}
    for i, message in reveals.items():
        server.add_reveal(i, message)
    fed.record, fed.dumps, fed.bundles = server.result().record, dumps, bundles
    fed.sent = {"advert": fed.organizations[0].advert, "shares": shares[0], "survive": signed[0], "reveal": reveals[0]}
    fed.spoilt = spoiled(federation(4), {1: lambda words: words.__ixor__(1)})
    fed.opening = fed.spoilt.server.opening_request(fed.spoilt.piece_of)
    opened, piece = fed.spoilt.member(0).open(fed.opening), fed.spoilt.piece_of(0, 0)
    fed.samples = {
        "plan": fed.plan().encode(),
        "advert": peek(fed.organizations[0].advert)[0],
        "rooted": peek(signed[0])[0],
        "shares": shares[0],
        "inbox": peek(inboxes[0])[0],
        "list": peek(bundles["quorum"])[0],
        "complaint": Complaint(bytes(32), 0, 1, SEAL).encode(),
        "reveal": peek(reveals[0])[0],
        "opening": peek(fed.opening)[0],
        "opened": peek(opened)[0],
        "evidence": Evidence(fed.record, 0, {i: fed.spoilt.piece_of(i, 0) for i in range(4)}, piece).encode(),
        "record": peek(fed.record)[0],
        "state": dumps["survivors"],
        "envelope": bundles["adverts"],
    }
    fed.waiting = {kind: waiting(fed, kind, shares, signed, reveals) for kind in fed.sent}
    return fed


def waiting(fed: Any, kind: str, shares: dict[int, bytes], signed: dict[int, bytes], reveals: dict[int, bytes]) -> Any:
    """A coordinator to which only organization 0's message of this kind has not come yet."""
    server = Coordinator(fed.roster, fed.plan(), fed.coordinator_key)
    adverts = {i: organization.advert for i, organization in fed.organizations.items()}
    phases: list[tuple[str, dict[int, Any], Any, Any]] = [
        ("advert", adverts, server.add_advert, server.close_adverts),
        ("shares", shares, server.add_shares, server.close_shares),
        ("upload", fed.uploads, lambda i, upload: server.add_upload(i, *upload), server.close_uploads),
        ("survive", signed, server.add_survival, server.close_survival),
        ("reveal", reveals, server.add_reveal, server.result),
    ]
    for name, messages, add, close in phases:
        for i, message in messages.items():
            assert (name == kind and i == 0) or add(i, message)
        if name == kind:
            return server
        close()


def bent(data: st.DataObject, honest: bytes, others: list[bytes]) -> bytes:
    """An honest message after one to three changes."""
    raw = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(raw) - 1)))
        match data.draw(st.sampled_from(["bit", "byte", "length", "splice", "cut", "repeat"])):
            case "bit" if raw:
                raw[at] ^= 1 << data.draw(st.integers(0, 7))
            case "byte" if raw:
                raw[at] = data.draw(st.sampled_from([0, 1, 127, 128, 200, 201, 255]))
            case "length":
                size = data.draw(st.sampled_from([2, 4, 8]))
                now = int.from_bytes(raw[at : at + size], "big")
                top = 256**size - 1
                value = data.draw(
                    st.sampled_from([0, 1, 199, 200, 201, top, top // 2, max(0, now - 1), min(top, now + 1)])
                )
                raw[at : at + size] = value.to_bytes(size, "big")
            case "splice":
                other = data.draw(st.sampled_from(others))
                raw[at:] = other[data.draw(st.integers(0, len(other))) :]
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 40))]
            case "repeat":
                raw[at:at] = raw[at : at + data.draw(st.integers(1, 200))]
    return bytes(raw)


def parsed(parse: Callable[[bytes], Any], raw: bytes) -> Any:
    """What the bytes say, None where they are refused; fails where parsing takes much more memory than they are."""
    tracemalloc.start()
    try:
        value = parse(raw)
    except Refused:
        value = None
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 * len(raw) + 64 * 1024, f"{peak} bytes of memory for a message of {len(raw)}"
    return value


@pytest.mark.parametrize("name", PARSERS)
def test_an_honest_message_comes_back_from_its_encoding(round_: Any, name: str) -> None:
    decode, encode = PARSERS[name]
    value = decode(round_.samples[name])
    assert encode(value) == round_.samples[name]
    assert encode(decode(encode(value))) == encode(value)


@pytest.mark.parametrize("name", PARSERS)
@CALM
@given(data=st.data())
def test_a_bent_message_is_refused_or_has_one_encoding(round_: Any, name: str, data: st.DataObject) -> None:
    decode, encode = PARSERS[name]
    raw = bent(data, round_.samples[name], list(round_.samples.values()))
    value = parsed(decode, raw)
    assert value is None or encode(value) == raw


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("fill", [b"\x00", b"\x01", b"\xff"])
def test_the_largest_message_takes_no_more_memory_than_a_few_of_it(name: str, fill: bytes) -> None:
    parsed(PARSERS[name][0], fill * MAX_MESSAGE)
    parsed(PARSERS[name][0], fill * (MAX_MESSAGE + 1))


def test_a_plan_of_many_segments_that_are_not_there(round_: Any) -> None:
    """A count of 65536 in a short message is refused while it is read, not after it was believed."""
    honest = round_.samples["plan"]
    at = honest.index((10).to_bytes(4, "big") + bytes.fromhex("3ff0000000000000")) - 4
    raw = honest[:at] + (65536).to_bytes(4, "big") + honest[at + 4 :]
    assert parsed(Plan.decode, raw) is None


@settings(CALM, max_examples=60)
@given(data=st.data())
def test_a_bent_record_that_its_coordinator_signed(round_: Any, data: st.DataObject) -> None:
    """Past the signature, where everything in the record is the coordinator's to choose."""
    body = bent(data, round_.samples["record"], list(round_.samples.values()))
    message = seal("record", body, round_.coordinator_key)
    run = round_.plan().run
    try:
        verify(message, round_.roster, run, genesis(run, round_.roster))
    except Refused as no:
        assert no.part  # noqa: PT017
    else:
        assert body == round_.samples["record"]


@pytest.mark.parametrize("phase", ["adverts", "inbox", "survivors", "quorum"])
@settings(CALM, max_examples=40)
@given(data=st.data())
def test_a_bent_bundle_that_its_coordinator_signed(round_: Any, phase: str, data: st.DataObject) -> None:
    """An organization refuses it and stays as it was. (What it has signed already, it may sign again.)"""
    honest = peek(round_.bundles[phase])[0]
    body = bent(data, honest, [peek(bundle)[0] for bundle in round_.bundles.values()])
    dump = round_.dumps[phase]
    organization = round_.reload(0, dump)
    call = {"adverts": organization.share, "survivors": organization.survive, "quorum": organization.unmask}
    message = seal(phase, body, round_.coordinator_key)
    try:
        organization.mask(message, round_.vectors[0]) if phase == "inbox" else call[phase](message)
    except Refused:
        assert organization.dump() == dump
    else:  # the honest bundle again: now and then the fresh rounding comes out as it did
        assert phase in ("survivors", "quorum") or body == honest


@settings(CALM, max_examples=60)
@given(data=st.data())
def test_a_bent_opening_that_its_coordinator_signed(round_: Any, data: st.DataObject) -> None:
    """Whatever it says, a member refuses all but the honest one, and stays as it was."""
    honest, spoilt = peek(round_.opening)[0], round_.spoilt
    body = bent(data, honest, [round_.samples["opened"], round_.samples["evidence"]])
    member = spoilt.member(2)
    dump = member.dump()
    try:
        member.open(seal("opening", body, spoilt.fed.coordinator_key))
    except Refused:
        assert member.dump() == dump
    else:
        assert body == honest


@pytest.mark.parametrize("kind", ["advert", "shares", "survive", "reveal"])
@settings(CALM, max_examples=40)
@given(data=st.data())
def test_a_bent_message_of_a_member_never_stops_the_coordinator(round_: Any, kind: str, data: st.DataObject) -> None:
    """Signed by the member itself or not, in the phase that waits for it: an add answers, whatever it is given."""
    honest, others = round_.sent[kind], list(round_.sent.values())
    if kind != "shares" and data.draw(st.booleans()):
        message = seal(kind, bent(data, peek(honest)[0], list(round_.samples.values())), round_.keys[0])
    else:
        message = bent(data, honest, others)
    server = round_.waiting[kind]
    adds = {"advert": server.add_advert, "shares": server.add_shares, "survive": server.add_survival}
    answer = adds.get(kind, server.add_reveal)(0, message)
    assert answer in (True, False)
    assert answer or server.rejections[-1].index == 0


@CALM
@given(data=st.data())
def test_a_bent_transcript(round_: Any, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """`read` refuses or yields records, `examine` says of each whether it holds."""
    path = tmp_path_factory.getbasetemp() / f"transcript-{round_.suite.id}"
    honest = transcript.encode([round_.record, round_.record])
    raw = bent(data, honest, [honest, round_.record])
    path.write_bytes(raw)
    try:
        records = list(transcript.read(path))
    except Refused as no:
        assert no.code.startswith("transcript.")  # noqa: PT017
        return
    assert transcript.encode(records) == raw
    held = [each for each in transcript.examine(records, round_.roster) if each.verified]
    assert all(each.fault is None for each in held)


LINES = (
    b"00112233445566778899aabbccddeeff 1 0 advert " + b"ab" * 32 + b"\n",
    b"00112233445566778899aabbccddeeff 1 0 survive " + b"cd" * 32 + b"\n",
    b"00112233445566778899aabbccddeeff 2 11 complaint " + b"ef" * 32 + b"\n",
)


@settings(CALM, max_examples=150)
@given(data=st.data())
def test_a_bent_journal(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """It opens or is refused; where it opens, it is the same lines, but for a last one without its end."""
    path: Path = tmp_path_factory.getbasetemp() / "journal"
    raw = bent(data, b"".join(LINES), list(LINES))
    path.write_bytes(raw)
    path.chmod(0o600)
    try:
        journal = FileJournal(path)
        run = bytes.fromhex("00112233445566778899aabbccddeeff")
        journal.last(run)
        whole = raw[: raw.rfind(b"\n") + 1].splitlines(keepends=True)
        signed = any(line.startswith(run.hex().encode() + b" 1 ") and b" survive " in line for line in whole)
        assert journal.survived(run, 1) == signed
    except Refused as no:
        assert no.code == "journal.corrupt"  # noqa: PT017
