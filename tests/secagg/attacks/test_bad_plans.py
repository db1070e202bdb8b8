"""Bad plans: one for each rule that an organization holds against the server.

Attacker: a coordinator with its genuine key, who writes the plan of a round. Gain without each check: see the table.
Stopped by `Plan.check` (the pinned roster), by `admit` (what the organization itself knows) and by strict decoding.
Nothing is signed and nothing is written to the journal for a refused plan.
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cotune.secagg.encoding import MAX_SEGMENTS, Encoding
from cotune.secagg.messages import Reveal
from cotune.secagg.wire import Reader, peek, seal

Build = Callable[..., Any]

# Federation of 4: t = 3, 10 coordinates in one segment with clip 1.0, lanes of 21 bits. (changes, code, gain)
RULES = [
    ({"run": b"x" * 16}, "plan.run", "messages of one run in another"),
    ({"suite": 7}, "plan.suite", "primitives that were never agreed upon"),
    ({"roster_hash": b"x" * 32}, "plan.roster", "a round among ghosts, see test_sybils.py"),
    ({"cohort": (0, 1, 2)}, "plan.cohort", "a smaller crowd to hide in, see test_isolation.py"),
    ({"cohort": (0, 1, 2, 3, 4)}, "plan.cohort", "a member that nobody admitted"),
    ({"threshold": 1}, "plan.threshold", "every share is the secret, see below"),
    ({"threshold": 2}, "plan.threshold", "two conflicting quorums, see below"),
    ({"threshold": 5}, "plan.threshold", "masks that nobody can take off"),
    ({"threshold": 4}, "plan.min_survivors", "survivors that can never be unmasked"),
    ({"min_survivors": 2}, "plan.min_survivors", "a sum of two, each of whom reads the other"),
    ({"min_survivors": 1}, "plan.min_survivors", "a sum of one"),
    ({"min_survivors": 5}, "plan.min_survivors", "a round that cannot end"),
    ({"model_hash": b"x" * 32}, "plan.model", "a model made to leak, see test_different_models.py"),
    ({"schema_hash": b"x" * 32}, "plan.schema", "coordinates that mean something else"),
    ({"dp_hash": b"x" * 32}, "plan.privacy", "less noise than was signed"),
    ({"prev_head": b"x" * 32}, "plan.head", "a fork, see test_forked_transcript.py"),
    ({"deadline": 1_000}, "plan.deadline", "a round long given up, when the others are gone"),
    ({"deadline": 0}, "plan.deadline", "the same"),
    ({"deadline": 2**63}, "plan.deadline", "a plan that is kept for another day"),
    ({"encoding": Encoding(((10, 2.0),), 4, 21)}, "plan.encoding", "a clip of which the noise covers half"),
    ({"encoding": Encoding(((10, 0.5),), 4, 21)}, "plan.encoding", "updates that are cut to nothing"),
    ({"encoding": Encoding(((4, 1.0), (6, 1.0)), 4, 21)}, "plan.encoding", "another division of the vector"),
    ({"encoding": Encoding(((10, 1.0),), 4, 20)}, "plan.encoding", "a coarser grid"),
    ({"encoding": Encoding(((10, 1.0),), 4, 22)}, "plan.encoding", "a finer grid: more bits of each update"),
    ({"encoding": Encoding(((10, 1.0),), 5, 21)}, "plan.encoding", "room for a contribution that should not be"),
    ({"encoding": Encoding(((10, 1.0),), 3, 21)}, "plan.overflow", "a carry into the next lane"),
    ({"encoding": Encoding(((11, 1.0),), 4, 21)}, "plan.dimension", "a vector of another length"),
]


@pytest.mark.parametrize(("changes", "code"), [rule[:2] for rule in RULES], ids=[rule[2] for rule in RULES])
def test_one_bad_plan_for_each_rule(federation: Build, refusal: Build, changes: dict[str, Any], code: str) -> None:
    fed = federation(4)
    assert refusal(fed.begin, 0, fed.plan(**changes).sign(fed.coordinator_key)) == code
    assert not fed.journals[0].entries
    assert fed.begin(0)


def test_without_the_rule_a_threshold_of_one_opens_every_vector(
    federation: Build, hostile: Build, without: Build
) -> None:
    """One colluding organization finds both secrets of everybody in its own inbox."""
    fed = federation(4)
    without("plan.threshold")
    fed.coordinator = type(fed.coordinator)(fed.roster, fed.plan(threshold=1), fed.coordinator_key)
    inboxes = fed.share()
    words = {i: fed.organizations[i].mask(inboxes[i], fed.vectors[i])[1] for i in range(4)}
    for victim in (0, 1, 3):
        b, mk = (hostile(fed).secret({2: share}) for share in fed.organizations[2]._state.held[victim])
        assert np.allclose(hostile(fed).steal(victim, words[victim], b, mk), fed.vectors[victim], atol=1e-4)


def test_without_the_rule_a_threshold_of_half_opens_a_vector_twice(
    federation: Build, hostile: Build, without: Build
) -> None:
    """t = 2 of 4, no colluders: 0 and 1 are told that all survived, 2 and 3 that the victim dropped out."""
    fed, victim = federation(4), 0
    without("plan.threshold")
    fed.coordinator = type(fed.coordinator)(fed.roster, fed.plan(threshold=2), fed.coordinator_key)
    inboxes = fed.share()
    uploads = {i: fed.organizations[i].mask(inboxes[i], fed.vectors[i]) for i in range(4)}
    assert all(fed.coordinator.add_upload(i, *upload) for i, upload in uploads.items())
    everybody = fed.coordinator.close_uploads()
    secrets = []
    for half, bundle in (((0, 1), everybody), ((2, 3), hostile(fed).without("survivors", everybody, victim))):
        signed = [fed.organizations[i].survive(bundle) for i in half]
        quorum = hostile(fed).bundle("quorum", fed.organizations[0].context, *signed)
        given = {i: Reveal.decode(peek(fed.organizations[i].unmask(quorum))[0]) for i in half}
        shares = {i: dict(reveal.self_shares + reveal.mask_shares)[victim] for i, reveal in given.items()}
        secrets.append(hostile(fed).secret(shares))
    stolen = hostile(fed).steal(victim, uploads[victim][1], *secrets)
    assert np.allclose(stolen, fed.vectors[victim], atol=1e-4)


@pytest.mark.parametrize("last", [(1, 0), (1, 1), (2, 0)])
def test_a_round_or_attempt_that_is_not_new(federation: Build, refusal: Build, last: tuple[int, int]) -> None:
    fed = federation(4)
    assert refusal(fed.begin, 0, fed.coordinator.plan_message, last=last) == "plan.replay"
    assert fed.begin(0, fed.plan(attempt=5).sign(fed.coordinator_key), last=(1, 4))


def test_a_round_whose_survivors_were_signed(federation: Build, refusal: Build) -> None:
    fed = federation(4)
    fed.survive()
    for attempt in (1, 9):
        assert refusal(fed.begin, 0, fed.plan(attempt=attempt).sign(fed.coordinator_key)) == "plan.burned"


def fields(fed: Any) -> dict[str, slice]:
    """Where the encoding's fields stand in the plan's body."""
    body = fed.plan().encode()
    reader = Reader(body)
    for size in (2, 16, 4, 4, 32):
        reader.fixed(size)
    reader.indices()
    reader.fixed(2 + 2 + 3 * 32)
    at, places = reader._at, {}
    for name, size in (("dimension", 8), ("parties", 2), ("lane_bits", 1), ("lanes", 1), ("levels", 8), ("count", 4)):
        places[name] = slice(at, at + size)
        at += size
    places["length"], places["clip"] = slice(at, at + 4), slice(at + 4, at + 12)
    return places


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("lanes", b"\x04", "plan.overflow"),
        ("lanes", b"\x02", "plan.overflow"),
        ("levels", (2**21).to_bytes(8, "big"), "plan.overflow"),
        ("levels", (1).to_bytes(8, "big"), "plan.overflow"),
        ("dimension", (11).to_bytes(8, "big"), "plan.dimension"),
        ("dimension", bytes(8), "plan.dimension"),
        ("lane_bits", b"\x07", "encoding.lanes"),
        ("lane_bits", b"\x21", "encoding.lanes"),
        ("parties", b"\0\0", "encoding.lanes"),
        ("count", b"\xff\xff\xff\xff", "encoding.segments"),
        ("length", bytes(4), "encoding.segments"),
        ("clip", struct.pack(">d", 0.0), "encoding.segments"),
        ("clip", struct.pack(">d", -1.0), "encoding.segments"),
        ("clip", struct.pack(">d", 1e31), "encoding.segments"),
        ("clip", struct.pack(">d", float("nan")), "wire.number"),
        ("clip", struct.pack(">d", float("inf")), "wire.number"),
        ("clip", struct.pack(">d", -0.0), "wire.number"),
    ],
)
def test_plans_that_no_honest_code_writes(
    federation: Build, refusal: Build, name: str, value: bytes, code: str
) -> None:
    """Changed in the bytes, and signed by the coordinator."""
    fed = federation(4)
    body, place = fed.plan().encode(), fields(fed)[name]
    assert body[place] != value
    forged = body[: place.start] + value + body[place.stop :]
    assert refusal(fed.begin, 0, seal("plan", forged, fed.coordinator_key)) == code


def test_encodings_without_a_segment_or_with_too_many(refusal: Build) -> None:
    for segments in ((), ((1, 1.0),) * (MAX_SEGMENTS + 1), ((2**31, 1.0), (1, 1.0))):
        assert refusal(Encoding, segments, 4, 21) == "encoding.segments"
    assert refusal(Encoding, ((1, 1.0),), 200, 8) == "encoding.lanes"
    assert Encoding(((1, 1.0),) * MAX_SEGMENTS, 4, 21).dimension == MAX_SEGMENTS


def test_trailing_and_missing_bytes(federation: Build, refusal: Build) -> None:
    fed = federation(4)
    body = fed.plan().encode()
    assert refusal(fed.begin, 0, seal("plan", body + b"\0", fed.coordinator_key)) == "wire.trailing"
    assert refusal(fed.begin, 0, seal("plan", body[:-1], fed.coordinator_key)) == "wire.truncated"
    assert refusal(fed.begin, 0, seal("plan", b"", fed.coordinator_key)) == "wire.truncated"


def test_what_the_coordinator_itself_would_not_sign(federation: Build, refusal: Build) -> None:
    """The same rules, so that an honest coordinator finds out before it asks anybody."""
    fed = federation(4)
    for changes in ({"threshold": 2}, {"cohort": (0, 1, 2)}, {"min_survivors": 2}, {"roster_hash": b"x" * 32}):
        code = refusal(type(fed.coordinator), fed.roster, fed.plan(**changes), fed.coordinator_key)
        assert code == f"plan.{next(iter(changes)).removesuffix('_hash')}"
    assert refusal(type(fed.coordinator), fed.roster, fed.plan(), fed.keys[0]) == "coordinator.key"
