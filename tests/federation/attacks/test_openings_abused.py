"""Openings and charges that a coordinator would like to have more of than it may."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from cotune.charter.messages import BODY, REFUSED, read_numbers
from cotune.secagg import merkle
from cotune.secagg.collecting import Step
from cotune.secagg.messages import Rooted
from cotune.secagg.opening import Verdict
from cotune.secagg.organization import Organization
from cotune.secagg.record import genesis, verify
from cotune.secagg.refused import Refused
from cotune.secagg.spot_checks import encode_pieces
from cotune.secagg.wire import seal
from cotune.server.exchange import Outgoing
from cotune.server.rounds import Attempt
from cotune.verify.kept import SUM, kept_words

ACCOMPLICE = 3
SPARE = np.uint64(1 << 63)


@pytest.fixture
def accomplice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dogwood sends and signs one spare bit too many, always."""
    mask = Organization.mask

    def use(self: Organization, inbox: bytes, vector: Any, workers: int = 1, *, keep_seeds: bool = False) -> Any:
        header, words = mask(self, inbox, vector, workers, keep_seeds=keep_seeds)
        if self._state.index == ACCOMPLICE:
            words[-1] ^= SPARE
            context = self._state.ctx2
            root = Rooted(context, ACCOMPLICE, merkle.root(words, context, ACCOMPLICE))
            self._state.header = header = seal("upload", root.encode(), self._identity)
        return header, words

    monkeypatch.setattr(Organization, "mask", use)


def openings(federation: Any) -> list[int]:
    return [home.journal.read_bytes().count(b" opened ") for home in federation.homes]


@pytest.mark.usefixtures("accomplice")
def test_a_round_that_was_opened_is_never_recorded_afterwards(
    found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a coordinator could open a piece in every round, undo what its accomplice did, and lose none."""
    federation = found(rounds=4)
    steps, find = Attempt._steps, Attempt._find_culprits

    def hostile(self: Any, coordinator: Any, plan: Any, *others: Any) -> Any:
        try:
            return steps(self, coordinator, plan, *others)
        except Refused:
            coordinator._step = Step.REVEALS
            coordinator._sum[-1] ^= SPARE
            return coordinator.result()

    def shameless(self: Any, *others: Any) -> None:
        with suppress(Refused):
            find(self, *others)
        self.seen.verdict = Verdict((), (), ())

    monkeypatch.setattr(Attempt, "_find_culprits", shameless)
    monkeypatch.setattr(Attempt, "_steps", hostile)
    with suppress(Exception):
        federation.run()
    assert openings(federation)[:3] == [1, 1, 1]
    assert set(federation.refusals("query.record")) == {"record.opened"}
    assert [home.chain().summed for home in federation.homes[:3]] == [0, 0, 0]
    assert [len(federation.charges(member)) for member in range(3)] == [1, 1, 1]


@pytest.mark.usefixtures("accomplice")
@pytest.mark.parametrize("terms", [{"enabled": False}, {"shared": True}], ids=["no noise", "shared noise"])
def test_nothing_is_opened_that_has_no_noise_of_its_own(
    found: Callable[..., Any], terms: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(rounds=1, **terms)
    with suppress(Exception):
        federation.run()
    assert openings(federation) == [0] * 4
    assert not any(kind == "query.open" for kind, _ in federation.grid.sent)


def test_one_round_is_not_charged_again_and_again_under_new_heads(found: Callable[..., Any], hostile_to: Any) -> None:
    """The coordinator keeps a member from its rounds, then shows it their records one by one, each with a new plan."""

    def keeps(charter: Any) -> Any:
        return charter.model_copy(update={"secagg": charter.secagg.model_copy(update={"audit_rounds": 10})})

    federation = found(rounds=6, change=keeps)
    federation.grid.before = lambda kind, member, message: None if member == 0 and kind != "query.hello" else message
    run = federation.run()
    hostile, roster = hostile_to(federation), federation.charter.roster()
    head, model, answers = genesis(run.run_id, roster), None, []
    for number in range(4):
        plan = hostile.plan(run.run_id, model, round=5, attempt=number, prev_head=head)
        answers.append(hostile.offer(plan, 0).refused)
        done = run.load(number)
        total = np.array(kept_words(run.path, number, SUM))
        told = hostile.send("query.record", Outgoing(b"", total, (done.record,)), 0)[BODY]
        verified = verify(done.record, roster, run.run_id, head)
        uploads = {index: np.array(kept_words(run.path, number, index)) for index in verified.survivors}
        kept = {
            index: (words, merkle.paths(merkle.piece_leaves(words, verified.ctx2, index)))
            for index, words in uploads.items()
        }
        body, words = encode_pieces(read_numbers(told[BODY], 10_000), kept)
        assert not hostile.send("query.pieces", Outgoing(body, words, (done.record,)), 0)[BODY][REFUSED]
        head, model = bytes.fromhex(done.head), done.model
    assert answers == ["", "", "plan.spoiled", "plan.spoiled"]
    assert len(federation.charges(0)) == 2
