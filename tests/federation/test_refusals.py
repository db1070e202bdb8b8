"""A member's no: the right code, and nothing spent."""

import fcntl
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cotune.charter import policy as policies
from cotune.charter import signing
from cotune.charter.messages import BODY, RECORDS, REFUSED
from cotune.client import participation
from cotune.client.home import NodeHome
from cotune.enrollment import node_settings as nodes
from cotune.errors import UserError
from cotune.secagg.record import genesis
from cotune.server.exchange import Outgoing, _message
from cotune.server.rounds import Attempt
from cotune.strategies.derived import strategy_of
from cotune.strategies.model import first, model_hash
from cotune.training.guards import WrongModelError
from flwr.app import ConfigRecord

RUN = b"r" * 16


def plan_of(federation, **changes):
    charter = federation.charter
    attempt = Attempt(charter, federation.key, None, {}, (), lambda phase, members: None)  # type: ignore[arg-type]
    head = genesis(RUN, charter.roster())
    plan = attempt.plan(strategy_of(charter), first(charter, strategy_of(charter)), RUN, 0, 0, head)
    return replace(plan, **changes)


def send(federation, kind: str, content: Outgoing, member: int = 0, bend: Callable = lambda message: None):
    message = _message(kind, 101 + member, content, "0", 60.0)
    message.metadata.__dict__["_message_id"] = f"message {kind}"
    bend(message)
    return federation.grid.deliver(message, member).content[BODY]


def offer(federation, plan=None, **options):
    plan = plan_of(federation) if plan is None else plan
    return send(federation, "train.round", Outgoing(plan.sign(federation.key)), **options)


def untouched(federation, member: int = 0) -> bool:
    home = federation.homes[member]
    return not federation.charges(member) and home.pending() is None and home.chain().round == -1


def test_a_good_plan_is_taken(found: Callable) -> None:
    federation = found()
    assert offer(federation)[REFUSED] == ""
    assert len(federation.charges(0)) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"dp_hash": b"x" * 32}, "plan.privacy"),
        ({"schema_hash": b"x" * 32}, "plan.schema"),
        ({"model_hash": b"x" * 32}, "plan.model"),
        ({"prev_head": b"x" * 32}, "plan.head"),
        ({"run": b"x" * 16}, "plan.head"),
        ({"roster_hash": b"x" * 32}, "plan.roster"),
        ({"cohort": (0, 1, 2)}, "plan.cohort"),
        ({"threshold": 2}, "plan.threshold"),
        ({"min_survivors": 2}, "plan.min_survivors"),
        ({"min_survivors": 4}, "plan.secagg"),
        ({"threshold": 4, "min_survivors": 4}, "plan.secagg"),
        ({"deadline": 1}, "plan.deadline"),
        ({"deadline": 2**40}, "plan.deadline"),
        ({"round": 2}, "plan.rounds"),
    ],
)
def test_a_bent_plan_is_refused_before_anything_is_spent(found: Callable, changes: dict, code: str) -> None:
    federation = found()
    assert offer(federation, plan_of(federation, **changes))[REFUSED] == code
    assert untouched(federation)


def test_a_plan_with_narrower_clips_is_refused(found: Callable) -> None:
    federation = found()
    encoding = plan_of(federation).encoding
    segments = tuple((length, clip * 1.5) for length, clip in encoding.segments)
    bent = plan_of(federation, encoding=replace(encoding, segments=segments))
    assert offer(federation, bent)[REFUSED] == "plan.encoding"
    assert untouched(federation)


def test_a_plan_by_a_stranger_is_refused(found: Callable) -> None:
    federation = found()
    stranger = signing.load_key(federation.homes[1].identity)
    content = Outgoing(plan_of(federation).sign(stranger))
    refused = send(federation, "train.round", content)[REFUSED]
    assert refused.startswith("wire.")
    assert untouched(federation)


def test_no_adapter_is_taken_from_the_coordinator(found: Callable) -> None:
    """The plan names the model that the member has computed, or it is refused; what comes beside it is not read."""
    federation = found()
    start = first(federation.charter, strategy_of(federation.charter))
    moved = replace(start, adapter=start.adapter + np.float32(1e-3))
    plan = plan_of(federation, model_hash=model_hash(federation.charter, moved))
    assert send(federation, "train.round", Outgoing(plan.sign(federation.key)))[REFUSED] == "plan.model"
    for crafted in ({"vector": moved.adapter}, {"model": moved.encode()}):
        message = Outgoing(plan.sign(federation.key), **crafted)
        assert send(federation, "train.round", message)[REFUSED] == "error.node"
    assert untouched(federation)


def test_the_same_plan_twice_is_a_replay_and_costs_once(found: Callable) -> None:
    federation = found()
    plan = plan_of(federation)
    assert offer(federation, plan)[REFUSED] == ""
    contribution = federation.homes[0].pending().contribution
    assert offer(federation, plan)[REFUSED] == "plan.replay"
    assert offer(federation, replace(plan, attempt=1))[REFUSED] == ""
    np.testing.assert_array_equal(federation.homes[0].pending().contribution, contribution)
    assert len(federation.charges(0)) == 1


def test_switching_runs_back_and_forth_never_trains_twice_for_one_charge(found: Callable) -> None:
    federation = found(rounds=4)
    bend_policy(federation, max_runs=2)
    first, other = plan_of(federation), plan_of(federation, run=b"o" * 16)
    other = replace(other, prev_head=genesis(b"o" * 16, federation.charter.roster()))
    released = []
    for plan in (first, other, first, replace(first, attempt=1)):
        refused = offer(federation, plan)[REFUSED]
        if not refused:
            released.append(federation.homes[0].pending().contribution)
    assert len({vector.tobytes() for vector in released}) == len(federation.charges(0)) == 3


def test_another_charter_is_refused_at_hello(found: Callable) -> None:
    federation = found()
    assert send(federation, "query.hello", Outgoing(bytes(64)))[REFUSED] == "hello.charter"
    digest = bytes.fromhex(federation.charter.digest())
    assert send(federation, "query.hello", Outgoing(digest + bytes(31)))[REFUSED] == "error.internal"
    assert send(federation, "query.hello", Outgoing(digest + bytes(32)))[REFUSED] == ""


def test_an_altered_charter_file_is_refused(found: Callable) -> None:
    federation = found()
    file = federation.homes[0].charter
    file.write_text(file.read_text().replace("rounds: 2", "rounds: 3"))
    assert offer(federation)[REFUSED] == "charter.signature"
    assert untouched(federation)


def bend_policy(federation, **changes) -> None:
    home = federation.homes[0]
    policies.save(policies.load(home.policy).model_copy(update=changes), home.policy)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"max_epsilon": 7.9}, "policy.epsilon"),
        ({"models": ("ab" * 32,)}, "policy.model"),
        ({"min_members": 5}, "policy.members"),
        ({"unit": "visit"}, "policy.unit"),
    ],
)
def test_the_stricter_policy_holds(found: Callable, changes: dict, code: str) -> None:
    federation = found()
    bend_policy(federation, **changes)
    assert offer(federation)[REFUSED] == code
    assert untouched(federation)


def test_a_policy_is_asked_before_the_data_are_read(found: Callable) -> None:
    """What the records do with the coordinator's model and template is told to nobody whose charter is refused."""
    federation = found()
    policy = policies.load(federation.homes[0].policy)
    bend_policy(federation, data=policy.data.with_name("missing.jsonl"))
    assert offer(federation)[REFUSED].startswith("error.")
    bend_policy(federation, models=("ab" * 32,))
    assert offer(federation)[REFUSED] == "policy.model"


def test_what_was_declared_is_held_against_the_real_number_of_units(found: Callable, monkeypatch) -> None:
    federation = found()
    home = federation.homes[0]
    bench = participation.Member(home)._workbench()
    monkeypatch.setattr(participation.Member, "_workbench", lambda member: replace(bench, units=101))
    assert offer(federation)[REFUSED] == "charter.units"
    assert untouched(federation)


def test_a_charter_without_privacy_needs_a_policy_that_allows_it(found: Callable) -> None:
    federation = found(enabled=False)
    bend_policy(federation, allow_without_privacy=False)
    assert offer(federation)[REFUSED] == "policy.privacy"


def test_another_base_model_is_refused(found: Callable, forest, monkeypatch) -> None:
    def other(charter):
        return charter.model_copy(update={"model": charter.model.model_copy(update={"base_digest": "ab" * 32})})

    federation = found(change=other)
    bend_policy(federation, models="any")
    assert offer(federation)[REFUSED] == "error.node"
    assert untouched(federation)
    with pytest.raises(WrongModelError):
        participation.Member(federation.homes[0])._workbench()


def test_a_node_with_another_identity_or_name_is_refused(found: Callable) -> None:
    federation = found()
    home = federation.homes[0]
    home.identity.unlink()
    signing.new_key(home.identity)
    assert offer(federation)[REFUSED] == "charter.key"
    nodes.save(nodes.load(home.settings).model_copy(update={"name": "stranger"}), home.settings)
    assert offer(federation)[REFUSED] == "charter.member"
    assert untouched(federation)


def test_a_forged_record_is_refused(found: Callable) -> None:
    federation = found(rounds=1)
    run = federation.run()
    record = bytearray(run.last().record)
    record[len(record) // 2] ^= 1
    head = federation.homes[0].chain()
    refused = send(federation, "query.record", Outgoing(b"", records=(bytes(record),)))[REFUSED]
    assert refused
    assert refused != "error.internal"
    assert federation.homes[0].chain() == head


def set_fields(**fields):
    def bend(message) -> None:
        message.content[BODY] = ConfigRecord({BODY: b"", RECORDS: []} | fields)

    return bend


def drop(key: str):
    def bend(message) -> None:
        del message.content[key]

    return bend


def put(key: str, value):
    def bend(message) -> None:
        message.content[key] = value

    return bend


@pytest.mark.parametrize(
    "bend",
    [
        set_fields(learning_rate=1.0),
        set_fields(**{BODY: "text"}),
        set_fields(**{RECORDS: "text"}),
        set_fields(**{RECORDS: ["text"]}),
        set_fields(**{RECORDS: [b""] * 10_001}),
        set_fields(**{BODY: b"short"}),
        drop(BODY),
    ],
)
def test_messages_of_another_form_are_refused(found: Callable, bend: Callable) -> None:
    federation = found()
    assert offer(federation, bend=bend)[REFUSED]
    assert untouched(federation)


def test_too_large_bodies_and_records_are_refused(found: Callable, monkeypatch) -> None:
    federation = found()
    monkeypatch.setattr("cotune.charter.messages.MAX_BODY_BYTES", 10_000)
    assert offer(federation, bend=set_fields(**{BODY: bytes(10_001)}))[REFUSED] == "error.node"
    assert offer(federation, bend=set_fields(**{RECORDS: [bytes(10_001)]}))[REFUSED] == "error.node"


@pytest.mark.parametrize("kind", ["query.shares", "query.upload", "query.survivors", "query.reveal"])
def test_calls_outside_a_round_are_refused(found: Callable, kind: str) -> None:
    federation = found()
    assert send(federation, kind, Outgoing(b"x"))[REFUSED] == "round.none"
    assert offer(federation)[REFUSED] == ""
    before = federation.homes[0].round_secrets()
    assert send(federation, kind, Outgoing(b"x"))[REFUSED] not in ("", "error.internal")
    assert federation.homes[0].round_secrets() == before


def test_an_older_rounds_secrets_end_with_a_newer_plan(found: Callable, monkeypatch) -> None:
    federation = found()
    assert offer(federation)[REFUSED] == ""
    assert federation.homes[0].round_secrets() is not None

    def full(home, pending) -> None:
        raise UserError("the disk is full", "free some")

    federation.homes[0].set_pending(None)
    monkeypatch.setattr(NodeHome, "set_pending", full)
    assert offer(federation, plan_of(federation, attempt=1))[REFUSED] == "error.node"
    assert federation.homes[0].round_secrets() is None


def test_a_message_waits_while_another_process_holds_the_lock(found: Callable) -> None:
    federation = found()
    replies = []
    with federation.homes[0].locked():
        pass  # the file is there, closed to others
    with (federation.homes[0].path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: replies.append(send(federation, "query.hello", Outgoing(bytes(64)))))
        thread.start()
        thread.join(0.5)
        assert replies == []
    thread.join(20)
    assert replies[0][REFUSED] == "hello.charter"


KINDS = [
    "query.hello",
    "train.round",
    "query.shares",
    "query.upload",
    "query.survivors",
    "query.reveal",
    "query.record",
    "query.pieces",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["flip", "cut", "noise", "empty"])
def test_bytes_from_a_hostile_member_never_end_the_server(found: Callable, kind: str, way: str) -> None:
    federation = found(rounds=1)
    generator = np.random.default_rng(KINDS.index(kind))

    def after(found: str, member, message):
        if member == 3 and found == kind:
            body = bytearray(message.content[BODY][BODY] or b"something")
            if way == "flip":
                body[int(generator.integers(len(body)))] ^= 1 + int(generator.integers(255))
            else:
                body = {"cut": body[:-1], "noise": bytearray(generator.bytes(len(body))), "empty": bytearray()}[way]
            message.content[BODY][BODY] = bytes(body)
        return message

    federation.grid.after = after
    late = kind in KINDS[4:]
    assert len(federation.run().load(0).survivors) == (4 if late else 3)
