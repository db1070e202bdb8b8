"""A coordinator that signs a false sum, or hides what would show it."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from math import comb
from typing import Any

import numpy as np
import pytest
from cotune.charter.messages import BODY, REFUSED, read_numbers
from cotune.client import spot_check
from cotune.client.home import CHECK_KEY
from cotune.errors import UserError
from cotune.secagg import merkle
from cotune.secagg.control import CONTROL_WORDS
from cotune.secagg.coordinator import Coordinator, RoundSum
from cotune.secagg.evidence import Evidence, false_sum
from cotune.secagg.record import RoundRecord, next_head, verify
from cotune.secagg.refused import Refused
from cotune.secagg.spot_checks import encode_pieces, pieces_for
from cotune.secagg.wire import peek
from cotune.server import confirmation
from cotune.server.exchange import Outgoing
from cotune.verify.kept import SUM, kept_words
from numpy.typing import NDArray
from scipy.stats import binomtest

PIECE = 16
Alter = Callable[[NDArray[np.uint64]], None]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the vector of a tiny model has many."""
    for name, module in list(sys.modules.items()):
        if name.startswith("cotune.") and hasattr(module, "PIECE_WORDS"):
            monkeypatch.setattr(module, "PIECE_WORDS", PIECE)


def alter_pieces(*numbers: int) -> Alter:
    """One step more in the first lane of a word in the middle of each piece: within every range and norm."""

    def alter(total: NDArray[np.uint64]) -> None:
        for number in numbers:
            total[number * PIECE + PIECE // 2] += np.uint64(1)

    return alter


def lie(monkeypatch: pytest.MonkeyPatch, alter: Alter) -> None:
    """The coordinator signs another sum than the uploads', and goes on from it."""
    result = Coordinator.result

    def false(self: Coordinator) -> RoundSum:
        true, plan = result(self), self._plan
        total = true.words.copy()
        alter(total)
        record = RoundRecord.decode(peek(true.record)[0])
        root = merkle.root(total, self._ctx2, merkle.SUM)
        head = next_head(plan.prev_head, self._ctx2, true.survivors, self._survivors.roots, root)
        signed = replace(record, result=root, head=head)
        values = plan.encoding.decode(total[CONTROL_WORDS:] & ~np.uint64(1 << 63), len(true.survivors))
        return RoundSum(values, true.survivors, signed.sign(self._key), head, total)

    monkeypatch.setattr(Coordinator, "result", false)


def unchecked(federation: Any, monkeypatch: pytest.MonkeyPatch, *altered: int) -> Any:
    """A run of one round whose sum is false in some pieces that no member happened to choose."""
    lie(monkeypatch, alter_pieces(*altered))
    with monkeypatch.context() as patched:
        patched.setattr(spot_check, "check_pieces", lambda *arguments: None)
        return federation.run()


def evidence_of(federation: Any, member: int) -> bytes | None:
    home = federation.homes[member]
    file = home.evidence(home.chain().run)
    return file.read_bytes() if file.exists() else None


def next_plan(hostile: Any, run: Any, number: int = 1) -> Any:
    """The plan of the round after the last."""
    last = run.last()
    return hostile.plan(run.run_id, last.model, round=number, prev_head=bytes.fromhex(last.head))


def everything(hostile: Any, run: Any, member: int) -> set[str]:
    """How a member answers to all that the coordinator of a run can send."""
    plan = next_plan(hostile, run).sign(hostile.federation.key)
    total, record = kept_words(run.path, 0, SUM), run.load(0).record
    content = Outgoing(b"", total, (record,))
    codes = {hostile.refused("train.round", plan, member), hostile.refused("query.record", content, member)}
    kinds = ("query.shares", "query.upload", "query.survivors", "query.reveal", "query.open")
    codes |= {hostile.refused(kind, b"x", member) for kind in kinds}
    return codes | {hostile.refused("query.pieces", content, member)}


def test_a_coordinator_that_lies_is_caught_and_convicted(
    found: Callable[..., Any], hostile_to: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of 22 pieces, the agreed tenth: a member misses them with a chance of 0.0065. Its server then stops."""
    federation = found(rounds=2)
    lie(monkeypatch, alter_pieces(*range(3, 20)))  # so many that no choice misses them
    with pytest.raises(UserError, match=r"round 1: \w+ proved that this coordinator signed a false sum"):
        federation.run()
    run, hostile = federation.directory(), hostile_to(federation)
    caught = [member for member in range(4) if evidence_of(federation, member)]
    assert caught
    for member in caught:
        proof = evidence_of(federation, member)
        verified = false_sum(proof, federation.charter.roster())
        assert (verified.plan.run, verified.plan.round) == (run.run_id, 0)
        assert everything(hostile, run, member) <= {"run.false_sum", "round.none", "check.none"}
        assert hostile.refused("train.round", next_plan(hostile, run).sign(federation.key), member) == "run.false_sum"
        assert len(federation.charges(member)) == 1
    # Started again it asks again, and ends again.
    with pytest.raises(UserError, match=r"proved|too few members go on"):
        federation.run()


def test_evidence_ends_a_round_in_progress(found: Callable[..., Any], hostile_to: Callable[..., Any]) -> None:
    """The record of an attempt that went on without a member comes while that member is in the next attempt."""
    federation = found(rounds=2)
    hostile = hostile_to(federation)
    plan = hostile.plan(b"r" * 16)
    assert hostile.offer(plan, 0).refused == ""
    federation.homes[0].set_evidence(plan.run.hex(), b"a proof")
    kinds = ("query.shares", "query.upload", "query.survivors", "query.reveal", "query.open")
    assert {hostile.refused(kind, b"x", 0) for kind in kinds} == {"run.false_sum"}


@pytest.mark.parametrize("altered", [(5,), (5, 9, 20)])
def test_the_rate_is_the_stated_one(
    found: Callable[..., Any], altered: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The member's own check under many keys: it finds a lie exactly where it chose one of its pieces."""
    federation = found(rounds=1)
    run = unchecked(federation, monkeypatch, *altered)
    home, terms, roster = federation.homes[0], federation.charter.secagg, federation.charter.roster()
    record, total = run.load(0).record, np.array(kept_words(run.path, 0, SUM))
    plan = peek_plan(record, roster)
    verified = verify(record, roster, plan.run, plan.prev_head)
    uploads = {i: np.array(kept_words(run.path, 0, i)) for i in verified.survivors}
    kept = {i: (w, merkle.paths(merkle.piece_leaves(w, verified.ctx2, i))) for i, w in uploads.items()}
    pieces, found_it, trials = merkle.pieces(len(total)), 0, 100
    for trial in range(trials):
        (home.path / CHECK_KEY).write_bytes(np.random.default_rng(trial).bytes(32))
        home.set_sum(total.tobytes())
        numbers = spot_check.chosen(home, terms, verified.head, len(total))
        proof = spot_check.check(home, terms, record, verified, *encode_pieces(numbers, kept))
        assert bool(proof) == bool(set(numbers) & set(altered))
        found_it += bool(proof)
    count = pieces_for(terms.check_fraction, terms.check_probability, pieces)
    chance = 1 - comb(pieces - len(altered), count) / comb(pieces, count)
    assert binomtest(found_it, trials, chance).pvalue > 1e-9
    if len(altered) > terms.check_fraction * pieces:
        assert chance >= terms.check_probability
    assert false_sum(home.evidence(plan.run.hex()).read_bytes(), roster).head == verified.head


def peek_plan(record: bytes, roster: Any) -> Any:
    from cotune.client.history import opened

    return opened(record, roster)[1]


def test_asking_again_draws_no_other_pieces(
    found: Callable[..., Any], hostile_to: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do another process and other answers in between; another record of the same round does."""
    federation = found(rounds=1)
    federation.lose("query.pieces", 0)
    run, hostile = federation.run(), hostile_to(federation)
    record = run.load(0).record
    content = Outgoing(b"", kept_words(run.path, 0, SUM), (record,))

    def asked() -> bytes:
        return hostile.send("query.record", content, 0)[BODY][BODY]

    first = asked()
    assert hostile.refused("query.pieces", Outgoing(b"", np.zeros(3, np.uint64), (record,)), 0) == "audit.pieces"
    assert hostile.refused("query.pieces", Outgoing(b"x", None, (record,)), 0) != ""
    assert [asked() for _ in range(3)] == [first] * 3
    assert len(read_numbers(first, 22)) == 17
    others = {hostile.send("query.record", content, member)[BODY][BODY] for member in (1, 2, 3)}
    assert first not in others


@pytest.mark.parametrize(
    "how", ["withheld", "of others", *(pytest.param(how, marks=pytest.mark.slow) for how in ("cut", "altered"))]
)
def test_a_coordinator_that_does_not_show_the_pieces_loses_the_member(
    found: Callable[..., Any], hostile_to: Callable[..., Any], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a proof, since the member itself may have bent them; and it can be shown the right ones later."""
    federation = found(rounds=2)
    encode = encode_pieces

    def bent(numbers: Any, uploads: Any) -> Any:
        if how == "of others":
            return encode([*numbers[1:], *({*range(22)} - {*numbers})][: len(numbers)], uploads)
        body, words = encode(numbers, uploads)
        return (body[:-32], words) if how == "cut" else (body, words ^ np.uint64(1))

    with monkeypatch.context() as patched:
        if how == "withheld":
            federation.lose("query.pieces", *range(4))
        else:
            patched.setattr(confirmation, "encode_pieces", bent)
        with pytest.raises(UserError, match="too few members go on from the last sum"):
            federation.run()
    run, hostile = federation.directory(), hostile_to(federation)
    plan = next_plan(hostile, run).sign(federation.key)
    for member in range(4):
        assert hostile.refused("train.round", plan, member) == "record.unchecked"
        assert evidence_of(federation, member) is None
        assert len(federation.charges(member)) == 1
    federation.grid.before = lambda kind, member, message: message
    assert [len(federation.run().load(number).survivors) for number in range(2)] == [4, 4]


def test_without_a_proof_nobody_stops_a_run(found: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """A member that accuses with a proof of nothing, or with evidence about an honest sum, sits out alone."""
    federation = found(rounds=3)
    caplog.set_level(logging.WARNING, logger="cotune.server")
    logging.getLogger("cotune.server").propagate = True
    proofs = iter([b"junk", None])

    def after(kind: str, member: int, message: Any) -> Any:
        if kind == "query.pieces" and member == 3:
            proof = next(proofs, b"more")
            message.content[BODY][BODY] = honest_evidence(federation) if proof is None else proof
        return message

    federation.grid.after = after
    run = federation.run()
    assert [len(run.load(number).survivors) for number in range(3)] == [4, 3, 3]
    assert caplog.text.count("dogwood accuses this coordinator without a proof") >= 2


def honest_evidence(federation: Any) -> bytes:
    """What a member would hand in about a piece of a sum with which nothing is wrong."""
    run, roster = federation.directory(), federation.charter.roster()
    number = run.recorded()[-1]
    record = run.load(number).record
    plan = peek_plan(record, roster)
    verified = verify(record, roster, plan.run, plan.prev_head)
    from cotune.secagg.evidence import evidence_of as made
    from cotune.secagg.pieces import piece_of

    words = {i: np.array(kept_words(run.path, number, i)) for i in verified.survivors}
    pieces = {i: piece_of(w, 2, verified.ctx2, i) for i, w in words.items()}
    return made(record, verified, 2, pieces, np.array(kept_words(run.path, number, SUM))).encode()


def test_evidence_that_somebody_bends_proves_nothing(found: Callable[..., Any]) -> None:
    """Nobody can frame an honest coordinator by other pieces, other records or other numbers."""
    federation = found(rounds=1)
    federation.run()
    roster, good = federation.charter.roster(), honest_evidence(federation)
    evidence = Evidence.decode(good)
    bent_words = evidence.result.words.copy()
    bent_words[3] ^= np.uint64(1 << 63)
    uploads = dict(evidence.uploads)
    uploads[0] = replace(uploads[0], words=uploads[0].words + np.uint64(1))
    bent = [
        good,
        replace(evidence, number=3).encode(),
        replace(evidence, number=99).encode(),
        replace(evidence, uploads={}).encode(),
        replace(evidence, uploads=uploads).encode(),
        replace(evidence, uploads={i: piece for i, piece in evidence.uploads.items() if i}).encode(),
        replace(evidence, result=replace(evidence.result, words=bent_words)).encode(),
    ]
    for raw in bent:
        with pytest.raises(Refused) as no:
            false_sum(raw, roster)
        assert no.value.code == "evidence.none"


@pytest.mark.parametrize(("at", "bit", "code"), [(3, 0, "sum.control"), (5 * PIECE, 63, "sum.range")])
def test_a_sum_that_is_none_convicts_at_once(
    found: Callable[..., Any], hostile_to: Callable[..., Any], at: int, bit: int, code: str, monkeypatch: Any
) -> None:
    federation = found(rounds=2)

    def alter(total: NDArray[np.uint64]) -> None:
        total[at] ^= np.uint64(1 << bit)

    lie(monkeypatch, alter)
    with pytest.raises(UserError, match="too few members go on from the last sum"):
        federation.run()
    run, hostile = federation.directory(), hostile_to(federation)
    content = Outgoing(b"", kept_words(run.path, 0, SUM), (run.load(0).record,))
    for member in range(4):
        assert hostile.refused("query.record", content, member) == "run.false_sum"
        assert f"query.record refused: {code}" in federation.homes[member].log.read_text()
        proof = evidence_of(federation, member)
        assert false_sum(proof, federation.charter.roster()).plan.run == run.run_id


def test_a_sum_beyond_its_norm_is_not_followed(
    found: Callable[..., Any], hostile_to: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every lane's range, so a member could have sent it: no proof, and nobody goes on from it."""
    federation = found(rounds=2)

    def alter(total: NDArray[np.uint64]) -> None:
        lane = int(0.9 * (2**21 - 1))
        total[PIECE : 5 * PIECE] = np.uint64(lane | lane << 21 | lane << 42)

    lie(monkeypatch, alter)
    with pytest.raises(UserError, match="too few members go on from the last sum"):
        federation.run()
    run, hostile = federation.directory(), hostile_to(federation)
    content = Outgoing(b"", kept_words(run.path, 0, SUM), (run.load(0).record,))
    for member in range(4):
        assert hostile.refused("query.record", content, member).startswith("sum.")
        assert federation.homes[member].model() is None
        assert hostile.refused("train.round", next_plan(hostile, run).sign(federation.key), member) == "plan.model"


def test_no_model_is_taken_from_the_coordinator_on_the_way_back(
    found: Callable[..., Any], hostile_to: Callable[..., Any]
) -> None:
    """A member that missed rounds is given the model before the last; only the one that others signed for holds."""
    federation = found(rounds=3)
    missed = federation.grid.before

    def before(kind: str, member: int, message: Any) -> Any:
        return None if member == 2 and kind != "query.hello" else missed(kind, member, message)

    federation.grid.before = before
    run, hostile = federation.run(), hostile_to(federation)
    true, total, records = run.load(1).model, kept_words(run.path, 2, SUM), run.records(-1)
    shifted = replace(true, adapter=true.adapter + np.float32(1e-3))
    momentum = {name: moment + 1e-9 for name, moment in true.state.moments.items()}
    forged = {
        "record.model": [
            shifted.encode(),
            replace(true, state=replace(true.state, moments=momentum)).encode(),
            replace(true, state=replace(true.state, steps=(7,))).encode(),
            run.load(0).model.encode(),
            run.load(2).model.encode(),
            true.encode()[:-1],
        ],
        "record.behind": [b""],
    }
    for code, models in forged.items():
        for model in models:
            assert hostile.refused("query.record", Outgoing(b"", total, records, model), 2) == code
    home = federation.homes[2]
    assert home.model() is None
    assert home.sum() is None
    # The words too are held against the record; then the right ones are taken.
    words = np.array(total)
    words[3 * PIECE] ^= np.uint64(1)
    assert hostile.refused("query.record", Outgoing(b"", words, records, true.encode()), 2) == "audit.sum"
    assert hostile.refused("query.record", Outgoing(b"", words[:-1], records, true.encode()), 2) == "audit.sum"
    assert home.model() is None
    assert hostile.refused("query.record", Outgoing(b"", total, records, true.encode()), 2) == ""
    assert home.model()[48:] == run.load(2).model.encode()
    assert hostile.send("query.record", Outgoing(b"", total, records), 2)[BODY][REFUSED] == ""
