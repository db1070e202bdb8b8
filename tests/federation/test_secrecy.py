"""What reaches the server: protocol bytes, uniform words, codes. Nothing of one organization in clear."""

from collections.abc import Callable

import numpy as np
import pytest
from cotune.charter.messages import BODY, NAME, REFUSED, VECTOR, read_vector
from cotune.charter.refusal import Refusal
from cotune.client import participation
from cotune.errors import UserError
from cotune.secagg.plan import Plan
from cotune.server.exchange import Outgoing, _message

SECRET = "patient Jane Doe had word17"


def carried_bytes(message) -> bytes:
    content = message.content
    fields = content[BODY]
    parts = [fields[BODY], fields[NAME].encode(), fields[REFUSED].encode()]
    return b"".join(parts) + (content[VECTOR][VECTOR].data if VECTOR in content else b"")


def contributions(federation) -> dict[int, np.ndarray]:
    seen: dict[int, np.ndarray] = {}

    def before(kind, member, message):
        pending = federation.homes[member].pending()
        if pending is not None:
            seen[member] = pending.contribution
        return message

    federation.grid.before = before
    return seen


def test_masked_words_look_uniform_and_are_not_the_encoding(found: Callable) -> None:
    federation = found(rounds=1, enabled=False)
    plans = []

    seen = contributions(federation)
    remember = federation.grid.before

    def before(kind, member, message):
        if kind == "train.round":
            plans.append(Plan.open(message.content[BODY][BODY], federation.charter.roster()))
        return remember(kind, member, message)

    federation.grid.before = before
    federation.run()
    uploads = {
        member: read_vector(message.content[VECTOR][VECTOR].data, "<u8", 1 << 20)
        for kind, member, message in federation.grid.carried
        if kind == "query.upload"
    }
    assert set(uploads) == set(seen) == {0, 1, 2, 3}
    encoding = plans[0].encoding
    for member, words in uploads.items():
        bits = np.unpackbits(words.view(np.uint8))
        assert abs(bits.mean() - 0.5) < 6 * 0.5 / np.sqrt(bits.size)
        counts = np.bincount(words.view(np.uint8), minlength=256)
        expected = words.nbytes / 256
        # So few words in a cell have a heavier tail than chi-square: nine deviations are 1e-11, six would be 4e-7.
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 9 * np.sqrt(2 * 255)
        plain = np.empty(encoding.words, dtype=np.uint64)
        encoding.encode(seen[member], plain)
        assert np.count_nonzero(words[8:] == plain) == 0
        # The test can fail: the unmasked encoding is far from uniform.
        bits = np.unpackbits(plain.view(np.uint8))
        assert abs(bits.mean() - 0.5) > 6 * 0.5 / np.sqrt(bits.size)


def test_no_number_of_a_contribution_crosses_the_wire(found: Callable) -> None:
    federation = found(rounds=1)
    seen = contributions(federation)
    federation.run()
    for member in range(4):
        wire = b"".join(carried_bytes(message) for _, sender, message in federation.grid.carried if sender == member)
        values = seen[member]
        patterns = [value.tobytes() for value in values]
        single = values.astype(np.float32)
        patterns += [single[at : at + 2].tobytes() for at in range(len(single) - 1)]
        assert not [pattern for pattern in patterns if pattern in wire and len(set(pattern)) > 2]
        record = federation.homes[member].path.joinpath("records.jsonl").read_bytes()
        assert not [line for line in record.splitlines() if line[10:30] in wire]


def test_replies_hold_the_agreed_fields_only(found: Callable) -> None:
    federation = found(rounds=1)
    federation.run()
    assert {kind for kind, _, _ in federation.grid.carried} == {
        "query.hello",
        "train.round",
        "query.shares",
        "query.upload",
        "query.survivors",
        "query.reveal",
        "query.record",
        "query.pieces",
    }
    for kind, member, message in federation.grid.carried:
        assert set(message.content) == ({BODY, VECTOR} if kind == "query.upload" else {BODY})
        fields = message.content[BODY]
        assert set(fields) == {BODY, NAME, REFUSED}
        assert fields[NAME] == (federation.charter.members[member].name if kind == "query.hello" else "")
    assert [kind for kind, reply in federation.replies if reply.vector is not None] == ["query.upload"] * 4


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (RuntimeError(SECRET), "error.internal"),
        (UserError(SECRET, "mend"), "error.node"),
        (MemoryError(SECRET), "error.internal"),
        (Refusal(SECRET, SECRET, "mend"), "error.node"),
        (Refusal("policy.epsilon", SECRET, "mend"), "policy.epsilon"),
    ],
)
def test_an_exceptions_text_stays_at_home(found: Callable, monkeypatch, problem: Exception, code: str) -> None:
    def fail(*args):
        raise problem

    federation = found(rounds=1)
    monkeypatch.setattr(participation.Member, "hello", fail)
    message = _message("query.hello", 101, Outgoing(bytes(64)), "hello", 5.0)
    message.metadata.__dict__["_message_id"] = "x"
    reply = federation.grid.deliver(message, 0)
    assert not reply.has_error()
    assert reply.content[BODY][REFUSED] == code
    assert carried_bytes(reply) == code.encode()
