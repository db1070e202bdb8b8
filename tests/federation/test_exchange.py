"""One exchange against a grid that answers badly, late or not at all, and the roll call on top of it."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from cotune.charter import signing
from cotune.charter.messages import BODY, NAME, RECORDS, REFUSED, VECTOR
from cotune.enrollment import node_settings as nodes
from cotune.server import roll_call
from cotune.server.exchange import Exchange, Interrupted, Outgoing
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

GOOD = {BODY: b"answer", NAME: "", REFUSED: ""}


def fields(**changes) -> RecordDict:
    return RecordDict({BODY: ConfigRecord(GOOD | changes)})


def vector(array: Array, key: str = VECTOR) -> RecordDict:
    content = fields()
    content[VECTOR] = ArrayRecord({key: array})
    return content


def play(federation, content: RecordDict | None, kind: str = "query.hello", **options):
    """One exchange with member 0, whose reply is replaced by `content`."""

    def after(found, member, message):
        return message if content is None else Message(content, reply_to=message_of[0])

    message_of: list[Message] = []

    def before(found, member, message):
        message_of[:] = [message]
        return message

    federation.grid.before, federation.grid.after = before, after
    exchange = Exchange(federation.grid, federation.stop)
    received = []
    answered = exchange.run(
        kind, {101: Outgoing(bytes(64))}, "g", 5.0, lambda node, reply: received.append(reply), **options
    )
    return answered, received


def test_a_good_reply_is_received(found: Callable) -> None:
    words = np.arange(5, dtype="<u8")
    answered, received = play(found(), vector(Array(words)))
    assert answered == {101}
    assert received[0].body == b"answer"
    np.testing.assert_array_equal(received[0].vector, words)


NPY = Array(np.arange(3, dtype="<u8"))
MALFORMED = {
    "no body": RecordDict(),
    "extra field": fields(loss=0.5),
    "extra record": RecordDict({BODY: ConfigRecord(GOOD), "metrics": MetricRecord({"loss": 0.5})}),
    "records": fields(**{RECORDS: []}),
    "body is text": fields(**{BODY: "text"}),
    "body is a list": fields(**{BODY: [b"x"]}),
    "name is bytes": fields(**{NAME: b"x"}),
    "long name": fields(**{NAME: "x" * 65}),
    "refusal with text": fields(**{REFUSED: "Patient Jane Doe"}),
    "long refusal": fields(**{REFUSED: "a" * 65}),
    "refusal with a newline": fields(**{REFUSED: "plan.x\n"}),
    "metrics for a body": RecordDict({BODY: MetricRecord({"a": 1})}),
    "config for a vector": RecordDict({BODY: ConfigRecord(GOOD), VECTOR: ConfigRecord({})}),
    "another array": vector(NPY, "weights"),
    "no array": RecordDict({BODY: ConfigRecord(GOOD), VECTOR: ArrayRecord()}),
    "floats": vector(Array(np.zeros(3))),
    "a matrix": vector(Array(np.zeros((2, 2), dtype="<u8"))),
    "no npy": vector(Array("<u8", (3,), "numpy.ndarray", b"garbage")),
    "a deep header": vector(
        Array("<u8", (1,), "numpy.ndarray", b"\x93NUMPY\x01\x00" + (9_001).to_bytes(2, "little") + b"-" * 9_000 + b"1")
    ),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_reply_is_no_answer(found: Callable, content: RecordDict) -> None:
    assert play(found(), content) == (set(), [])


def test_an_error_by_the_superlink_is_no_answer(found: Callable) -> None:
    federation = found()

    def after(kind, member, message):
        error = Message(Error(1, "node left; Jane Doe"), reply_to=last[0])
        error.metadata.__dict__["_src_node_id"] = 1
        return error

    last: list[Message] = []

    def before(kind, member, message):
        last[:] = [message]
        return message

    federation.grid.before, federation.grid.after = before, after
    received = []
    exchange = Exchange(federation.grid, federation.stop)
    outgoing = {101: Outgoing(bytes(64)), 102: Outgoing(bytes(64))}
    assert exchange.run("query.hello", outgoing, "g", 5.0, lambda *reply: received.append(reply)) == set()
    assert received == []


def test_a_late_reply_is_not_taken_for_the_next_exchange(found: Callable) -> None:
    federation = found(rounds=2)
    held: dict[str, Message] = {}

    def after(kind, member, message):
        if kind == "train.round" and member == 1 and "reply" not in held:
            held["reply"] = message
            return None
        return message

    def pull(numbers):
        ready = [held["reply"]] if "reply" in held else []
        return [*ready, *original(numbers)]

    original = federation.grid.pull_messages
    federation.grid.after = after
    federation.grid.pull_messages = pull
    run = federation.run()
    assert [len(run.load(number).survivors) for number in range(2)] == [4, 4]
    assert [noted.attempt for noted in run.attempts(0)] == [0, 0]


def test_a_truly_late_reply_is_a_dropout(found: Callable) -> None:
    federation = found(rounds=1)
    late: list[Message] = []

    def after(kind, member, message):
        if kind == "query.shares" and member == 1:
            late.append(message)
            return None
        return message

    def pull(numbers):
        return [*(late if federation.grid.sent[-1][0] == "query.upload" else []), *original(numbers)]

    original = federation.grid.pull_messages
    federation.grid.after = after
    federation.grid.pull_messages = pull
    assert federation.run().load(0).survivors == ("alder", "cedar", "dogwood")


@pytest.mark.parametrize("answer", ["none", "short", "empty"])
def test_grids_that_cannot_send_leave_the_node_out(found: Callable, answer: str) -> None:
    federation = found()
    push = federation.grid.push_messages

    def failing(messages):
        left = [message for message in messages if message.metadata.dst_node_id != 102]
        numbers = list(push(left))
        return numbers if answer == "short" or len(left) else ([None] if answer == "none" else [])

    federation.grid.push_messages = failing
    exchange = Exchange(federation.grid, federation.stop)
    outgoing = {101: Outgoing(bytes(64)), 102: Outgoing(bytes(64))}
    assert exchange.run("query.hello", outgoing, "g", 5.0, lambda node, reply: None) == {101}


def test_stop_interrupts_only_where_nothing_burns(found: Callable) -> None:
    federation = found()
    federation.lose("query.hello", 0)
    federation.stop.set()
    exchange = Exchange(federation.grid, federation.stop)
    outgoing = {101: Outgoing(bytes(64))}
    with pytest.raises(Interrupted):
        exchange.run("query.hello", outgoing, "g", 5.0, lambda node, reply: None, interruptible=True)
    assert exchange.run("query.hello", outgoing, "g", 5.0, lambda node, reply: None) == set()


@pytest.mark.parametrize("kind", ["query.shares", "query.upload", "query.survivors", "query.reveal"])
def test_a_stop_in_the_middle_of_a_round_ends_after_it(found: Callable, kind: str) -> None:
    federation = found(rounds=2)

    def before(sent, member, message):
        if sent == kind:
            federation.stop.set()
        return message

    federation.grid.before = before
    with pytest.raises(Interrupted):
        federation.run()
    assert federation.directory().committed() == [0]
    federation.stop = threading.Event()
    federation.grid.before = lambda sent, member, message: message
    assert len(federation.run().load(1).survivors) == 4


def test_a_stop_while_nobody_is_online_is_heard(found: Callable) -> None:
    federation = found()
    federation.grid.online = []
    federation.stop.set()
    with pytest.raises(Interrupted):
        federation.run()


def call(federation, known=None, seconds: float = 5.0):
    exchange = Exchange(federation.grid, federation.stop)
    return roll_call.call(federation.charter, exchange, known or {}, seconds, wait=lambda pause: None)


def test_everybody_is_found_once(found: Callable) -> None:
    federation = found()
    assert call(federation) == {101: 0, 102: 1, 103: 2, 104: 3}
    assert [kind for kind, _ in federation.grid.sent] == ["query.hello"] * 4


def test_members_that_are_known_are_not_asked_again(found: Callable) -> None:
    federation = found()
    assert call(federation, {101: 0, 102: 1, 103: 2, 999: 3}) == {101: 0, 102: 1, 103: 2, 104: 3}
    assert federation.grid.sent == [("query.hello", 3)]


def test_a_wrong_key_is_nobody(found: Callable) -> None:
    federation = found()
    federation.homes[2].identity.unlink()
    signing.new_key(federation.homes[2].identity)
    assert call(federation) == {101: 0, 102: 1, 104: 3}


def test_a_member_that_gives_anothers_name_is_nobody(found: Callable) -> None:
    federation = found()
    home = federation.homes[2]
    nodes.save(nodes.load(home.settings).model_copy(update={"name": "alder"}), home.settings)
    assert call(federation) == {101: 0, 102: 1, 104: 3}


def test_a_second_node_of_a_member_is_ignored(found: Callable) -> None:
    federation = found()
    federation.grid.homes[3] = federation.grid.homes[1]
    assert call(federation) == {101: 0, 102: 1, 103: 2}


def test_an_old_signature_does_not_pass_again(found: Callable) -> None:
    federation = found()
    kept: dict[int, bytes] = {}

    def after(kind, member, message):
        if member == 2:
            body = kept.setdefault(member, message.content[BODY][BODY])
            message.content[BODY][BODY] = body
        return message

    federation.grid.after = after
    assert 103 in call(federation)
    assert 103 not in call(federation)


def test_a_member_that_comes_while_others_wait_is_found(found: Callable) -> None:
    federation = found()
    federation.grid.online = [0, 1]
    exchange = Exchange(federation.grid, federation.stop)

    def wait(seconds: float) -> None:
        federation.grid.online = [0, 1, 2, 3]

    assert roll_call.call(federation.charter, exchange, {}, 30.0, wait=wait) == {101: 0, 102: 1, 103: 2, 104: 3}
