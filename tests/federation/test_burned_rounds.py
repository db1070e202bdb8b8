"""A member that cheats once the survivors have signed: it sits out, or the run stops. A bad reply ends nothing."""

import logging
from collections.abc import Callable

import pytest
from cotune.charter import policy as policies
from cotune.errors import UserError
from cotune.secagg.collecting import Step
from cotune.secagg.coordinator import Coordinator
from cotune.secagg.messages import OFFER, Complaint
from cotune.secagg.organization import Organization
from cotune.secagg.refused import Refused
from cotune.secagg.suites import HYBRID
from cotune.secagg.wire import peek

DOGWOOD = 3


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logger = logging.getLogger("cotune.server")
    logger.propagate = True
    caplog.set_level(logging.WARNING, logger="cotune.server")
    return caplog


def refuse_unmasking(monkeypatch: pytest.MonkeyPatch, code: str, member: int | None, always: bool = False) -> None:
    """The coordinator refuses every sum that dogwood takes part in, or every sum."""
    result = Coordinator.result

    def use(self):
        if always or DOGWOOD in self.present(Step.ADVERTS):
            raise Refused(code, "made up", member)
        return result(self)

    monkeypatch.setattr(Coordinator, "result", use)


def test_a_member_that_a_refusal_convicts_sits_out_the_rest_of_the_run(
    found: Callable, monkeypatch: pytest.MonkeyPatch, heard: pytest.LogCaptureFixture
) -> None:
    federation = found(rounds=3)
    refuse_unmasking(monkeypatch, "unmask.secret", DOGWOOD)
    run = federation.run()
    others = ("alder", "birch", "cedar")
    assert [run.load(number).survivors for number in range(3)] == [(), others, others]
    assert "dogwood: proven to have broken the protocol" in heard.text
    assert [len(federation.charges(i)) for i in range(4)] == [3, 3, 3, 1]
    assert {event.left_out for event in federation.events if event.round > 1} == {("dogwood",)}
    assert run.load(0).measured.loss is None


def test_a_restarted_server_remembers_whom_a_refusal_convicted(
    found: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(rounds=2)
    refuse_unmasking(monkeypatch, "share.offer", DOGWOOD)
    killed = federation.grid.before

    def before(kind, member, message):
        if kind == "train.round" and federation.directory().committed():
            raise KeyboardInterrupt
        return message

    federation.grid.before = before
    with pytest.raises(KeyboardInterrupt):
        federation.run()
    federation.grid.before = killed
    federation.grid.sent.clear()
    assert federation.run().load(1).survivors == ("alder", "birch", "cedar")
    assert ("train.round", DOGWOOD) not in federation.grid.sent


def test_two_burned_rounds_stop_the_run_and_members_begin_no_third(
    found: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(rounds=9)
    result, calls = Coordinator.result, []

    def every_second(self):
        calls.append(1)
        if len(calls) % 2 == 0:
            raise Refused("unmask.secret", "made up", None)
        return result(self)

    monkeypatch.setattr(Coordinator, "result", every_second)
    with pytest.raises(UserError, match=r"2 rounds of this run were spoiled \(round 2: unmask.secret.*round 4"):
        federation.run()
    assert federation.directory().recorded() == [0, 2]
    spent = [len(federation.charges(i)) for i in range(4)]
    assert spent == [4] * 4
    # Started again, the coordinator asks on, and no member goes along: the run ends with what it has.
    run = federation.run()
    assert run.committed() == [0, 1, 2, 3]
    assert set(federation.refusals()) == {"plan.spoiled"}
    assert [len(federation.charges(i)) for i in range(4)] == spent
    for home in federation.homes:
        policies.save(policies.load(home.policy).model_copy(update={"max_spoiled_rounds": 9}), home.policy)
    with pytest.raises(UserError, match="3 rounds of this run were spoiled"):
        federation.run()


def test_a_run_of_burned_rounds_alone_releases_nothing(found: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = found(rounds=1)
    refuse_unmasking(monkeypatch, "sum.control", None, always=True)
    for _ in range(2):  # starting it again changes nothing
        with pytest.raises(UserError, match="all 1 rounds were burned: there is nothing to release"):
            federation.run()
    assert federation.directory().committed() == [0]
    assert [len(federation.charges(i)) for i in range(4)] == [1] * 4


def test_where_the_convicted_cannot_be_spared_the_run_ends(found: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def three_of_four(charter):
        terms = charter.secagg.model_copy(update={"threshold": 4, "min_survivors": 4})
        return charter.model_copy(update={"secagg": terms})

    federation = found(rounds=3, change=three_of_four)
    refuse_unmasking(monkeypatch, "unmask.secret", DOGWOOD)
    with pytest.raises(UserError, match="dogwood: proven to have broken the protocol, and too few others are left"):
        federation.run()
    assert federation.directory().committed() == [0]


def test_killed_while_signing_again_and_again_costs_no_more(found: Callable) -> None:
    federation = found(rounds=4)

    def before(kind, member, message):
        if kind == "query.reveal" and len(federation.directory().committed()) in (1, 2):
            raise KeyboardInterrupt
        return message

    federation.grid.before = before
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            federation.run()
    with pytest.raises(UserError, match="interrupted; round 3: the coordinator was interrupted"):
        federation.run()
    assert federation.run().recorded() == [0]
    assert [len(federation.charges(i)) for i in range(4)] == [3] * 4


def test_a_reply_that_cannot_be_handled_is_left_out(
    found: Callable, monkeypatch: pytest.MonkeyPatch, heard: pytest.LogCaptureFixture
) -> None:
    federation = found(rounds=1)
    add = Coordinator.add_shares

    def use(self, index, message):
        if index == 2:
            raise KeyError("never thought of")
        return add(self, index, message)

    monkeypatch.setattr(Coordinator, "add_shares", use)
    run = federation.run()
    assert run.load(0).survivors == ("alder", "birch", "dogwood")
    assert "what cedar sent to query.shares fails here" in heard.text


def test_a_complaint_about_an_offer_is_described_and_written_down(
    found: Callable, monkeypatch: pytest.MonkeyPatch, heard: pytest.LogCaptureFixture
) -> None:
    federation = found(rounds=1, suite=HYBRID)
    streams = Organization._streams

    def use(self, view, box):
        if self._state.index == 0 and DOGWOOD in view.members:
            raise Refused("share.offer", "made up", DOGWOOD)
        return streams(self, view, box)

    monkeypatch.setattr(Organization, "_streams", use)
    run = federation.run()
    assert run.load(0).survivors == ("alder", "birch", "cedar")
    filed = [Complaint.decode(peek(message)[0]) for message in run.complaints(0)]
    assert [(one.index, one.accused, one.reason) for one in filed] == [(0, DOGWOOD, OFFER)]
    assert "alder says that what dogwood sealed for it offers another secret" in heard.text
