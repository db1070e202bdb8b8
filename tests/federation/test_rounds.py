"""Whole rounds through both apps: the right sum, the right survivors, and no more than was agreed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cotune.adapter.schema import initial
from cotune.charter.charter import Charter
from cotune.errors import UserError
from cotune.privacy.accounting import epsilon
from cotune.secagg.suites import CLASSIC, HYBRID, Suite
from cotune.server import run as server_run
from cotune.strategies.derived import nominal_batch, schema_of, strategy_of

PHASES = ("query.hello", "train.round", "query.shares", "query.upload", "query.survivors", "query.reveal")


def pending_at_reveal(federation) -> list[dict[int, np.ndarray]]:
    """Every round's contributions, read from the homes as the first reveal is asked for."""
    seen: list[dict[int, np.ndarray]] = []

    def before(kind, member, message):
        if kind == "query.reveal" and (not seen or member == 0):
            seen.append({i: home.pending().contribution for i, home in enumerate(federation.homes) if home.pending()})
        return message

    federation.grid.before = before
    return seen


@pytest.mark.parametrize(("enabled", "suite"), [(True, CLASSIC), (False, CLASSIC), (True, HYBRID)])
def test_the_adapter_is_the_strategys_on_the_plain_sum(found: Callable, enabled: bool, suite: Suite) -> None:
    federation = found(rounds=2, enabled=enabled, suite=suite)
    seen = pending_at_reveal(federation)
    run = federation.run()
    charter, strategy = federation.charter, strategy_of(federation.charter)
    schema = schema_of(charter)
    adapter, state = initial(schema, charter.model.initial_seed), strategy.start(schema.dimension)
    batch = sum(nominal_batch(charter, member.name) for member in charter.members)
    largest = nominal_batch(charter, charter.members[0].name)
    levels = (2**21 - 1) // 8
    step = strategy.reach(charter.privacy, largest, 6.0) / levels
    for number, contributions in enumerate(seen):
        assert len(contributions) == 4
        total = sum(vector[: schema.dimension] for vector in contributions.values())
        moved, new = strategy.apply(adapter, state, strategy.trained(schema, number), total, batch, 4)
        done = run.load(number)
        # Four stochastic roundings, each less than one step.
        bound = 0.1 * 4 * step / batch * (1 if number == 0 else 2) + 1e-6
        np.testing.assert_allclose(done.adapter, moved, atol=bound, rtol=0)
        assert not np.array_equal(done.adapter, adapter)
        adapter, state = done.adapter, replace(new, moments=done.state.moments)
    assert run.committed() == [0, 1]


@pytest.mark.parametrize("suite", [CLASSIC, HYBRID])
def test_everybody_holds_the_servers_transcript(found: Callable, suite: Suite) -> None:
    federation = found(rounds=2, suite=suite)
    run = federation.run()
    last = run.last()
    assert [home.chain().head for home in federation.homes] == [last.head] * 4
    assert run.load(0).head != last.head
    assert all((home.pending(), home.round_secrets()) == (None, None) for home in federation.homes)
    assert [len(federation.charges(i)) for i in range(4)] == [2] * 4
    assert last.measured.epsilon["alder"] == pytest.approx(federation.charges(0)[-1].spent_epsilon)
    assert last.measured.epsilon["alder"] <= 8.0


@pytest.mark.parametrize("kind", PHASES)
def test_one_of_four_may_be_silent_in_any_phase(found: Callable, kind: str) -> None:
    federation = found(rounds=1)
    federation.lose(kind, 2)
    run = federation.run()
    survivors = run.load(0).survivors
    everybody = tuple(member.name for member in federation.charter.members)
    late = kind in ("query.survivors", "query.reveal")
    assert survivors == (everybody if late else ("alder", "birch", "dogwood"))
    assert run.load(0).measured.contributions == len(survivors)
    assert len(run.attempts(0)) == 2  # one attempt, and that it began to sign


@pytest.mark.parametrize("kind", ["train.round", "query.shares", "query.upload"])
def test_two_silent_members_before_signing_cost_an_attempt_and_no_budget(found: Callable, kind: str) -> None:
    federation = found(rounds=1)
    federation.lose(kind, 1, 2, times=1)
    contributions = pending_after(federation)
    run = federation.run()
    assert run.load(0).survivors == ("alder", "birch", "cedar", "dogwood")
    assert [noted.attempt for noted in run.attempts(0) if noted.signing] == [1]
    assert [len(federation.charges(i)) for i in range(4)] == [1] * 4
    for attempts in contributions.values():
        assert all(np.array_equal(attempts[0], other) for other in attempts)


def test_a_member_that_trained_in_a_failed_attempt_only_is_counted(found: Callable) -> None:
    federation = found(rounds=1)
    federation.lose("query.shares", 1, 2, times=1)
    loses, plans = federation.grid.before, []

    def before(kind, member, message):
        plans.append(kind == "train.round" and member == 3)
        # The second plan never reaches dogwood, which trained under the first.
        return None if plans[-1] and sum(plans) == 2 else loses(kind, member, message)

    federation.grid.before = before
    run = federation.run()
    assert run.load(0).survivors == ("alder", "birch", "cedar")
    assert len(federation.charges(3)) == 1
    assert run.load(0).measured.trained == {"alder": 1, "birch": 1, "cedar": 1, "dogwood": 1}


def pending_after(federation) -> dict[int, list[np.ndarray]]:
    """What each member would send, after each plan it accepted."""
    seen: dict[int, list[np.ndarray]] = {}

    def after(kind, member, message):
        if kind == "train.round":
            seen.setdefault(member, []).append(federation.homes[member].pending().contribution)
        return message

    federation.grid.after = after
    return seen


@pytest.mark.parametrize("kind", ["query.survivors", "query.reveal"])
def test_two_silent_members_after_signing_burn_the_round(found: Callable, kind: str) -> None:
    federation = found(rounds=2)
    federation.lose(kind, 1, 2, times=1)
    run = federation.run()
    burned, done = run.load(0), run.load(1)
    terms = federation.charter.privacy
    assert burned.survivors == ()
    assert burned.record == b""
    np.testing.assert_array_equal(
        burned.adapter, initial(schema_of(federation.charter), federation.charter.model.initial_seed)
    )
    one, two = (epsilon([(terms.noise_multiplier, terms.sample_rate, steps)], terms.delta) for steps in (1, 2))
    assert burned.measured.epsilon == dict.fromkeys(burned.measured.trained, one)
    assert len(burned.measured.epsilon) == 4
    assert done.survivors == ("alder", "birch", "cedar", "dogwood")
    assert done.measured.epsilon["alder"] == pytest.approx(two)
    assert done.measured.contributions == 4
    assert [home.chain().head for home in federation.homes] == [done.head] * 4


def test_a_burned_last_round_counts_in_epsilon(found: Callable) -> None:
    federation = found(rounds=2)
    count = iter(range(100))

    def before(kind, member, message):
        return None if kind == "query.reveal" and next(count) >= 4 else message

    federation.grid.before = before
    run = federation.run()
    assert run.load(1).survivors == ()
    assert run.load(1).measured.epsilon["alder"] == pytest.approx(federation.charges(0)[-1].spent_epsilon)
    assert run.load(1).measured.epsilon["alder"] > run.load(0).measured.epsilon["alder"]
    assert run.load(1).measured.contributions == 4


def test_three_failed_attempts_end_the_run(found: Callable) -> None:
    federation = found(rounds=1)
    federation.lose("query.shares", 0, 1, 2, 3)
    with pytest.raises(UserError, match="3 attempts failed"):
        federation.run()
    assert [noted.attempt for noted in federation.directory().attempts(0) if noted.trained is None] == [0, 1, 2]
    assert [len(federation.charges(i)) for i in range(4)] == [1] * 4


def test_too_few_online_says_who_is_missing(found: Callable) -> None:
    federation = found(rounds=1)
    federation.grid.online = [0, 3]
    with pytest.raises(UserError, match=r"2 of the 3.*birch, cedar"):
        federation.run()


def test_a_server_killed_while_members_train_goes_on_with_the_next_attempt(found: Callable) -> None:
    federation = found(rounds=1)
    contributions = pending_after(federation)
    kill_at(federation, "query.upload")
    with pytest.raises(KeyboardInterrupt):
        federation.run()
    federation.grid.before = lambda kind, member, message: message
    run = federation.run()
    assert run.load(0).survivors == ("alder", "birch", "cedar", "dogwood")
    assert [(noted.attempt, noted.signing) for noted in run.attempts(0)] == [(0, False), (1, False), (1, True)]
    assert [len(federation.charges(i)) for i in range(4)] == [1] * 4
    assert all(np.array_equal(first, second) for first, second in contributions.values())


def kill_at(federation, kind: str) -> None:
    def before(found: str, member, message):
        if found == kind:
            raise KeyboardInterrupt
        return message

    federation.grid.before = before


@pytest.mark.parametrize("kind", ["query.survivors", "query.reveal"])
def test_a_server_killed_while_members_sign_burns_the_round(found: Callable, kind: str) -> None:
    federation = found(rounds=2)
    kill_at(federation, kind)
    with pytest.raises(KeyboardInterrupt):
        federation.run()
    federation.grid.before = lambda kind, member, message: message
    run = federation.run()
    assert run.load(0).survivors == ()
    assert len(run.load(1).survivors) == 4
    assert len(run.load(1).measured.epsilon) == 4
    assert run.load(1).measured.epsilon["cedar"] == pytest.approx(federation.charges(2)[-1].spent_epsilon)


def test_a_finished_run_started_again_trains_nothing(found: Callable) -> None:
    federation = found(rounds=1)
    federation.run()
    federation.grid.sent.clear()
    before = federation.directory().last()
    federation.run()
    assert {kind for kind, _ in federation.grid.sent} <= {"query.hello", "query.record", "query.pieces"}
    assert federation.directory().last().head == before.head
    assert [home.chain().head for home in federation.homes] == [before.head] * 4


def test_a_run_that_was_begun_under_other_hashes_is_not_continued(
    found: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another version would have made them: the transcript would hold under neither."""
    federation = found(rounds=1)
    federation.run()
    federation.grid.sent.clear()
    monkeypatch.setattr(Charter, "schema_hash", lambda self: b"v" * 32)
    with pytest.raises(UserError, match="its rounds were not run on this charter's terms"):
        federation.run()
    assert federation.grid.sent == []


def test_a_finished_run_needs_nobody_online(found: Callable) -> None:
    federation = found(rounds=1)
    federation.run()
    federation.grid.online = []
    federation.run()


def test_members_that_leave_after_the_last_round_do_not_fail_the_run(found: Callable) -> None:
    federation = found(rounds=1)
    tell = federation.events.append

    class Leaving(list):
        def append(self, event):
            tell(event)
            if event.phase == "done":
                federation.grid.online = []

    federation.events = Leaving()
    assert federation.run().committed() == [0]


def test_a_member_that_missed_rounds_catches_up(found: Callable) -> None:
    federation = found(rounds=3)

    def before(kind, member, message):
        missing = member == 2 and len(federation.directory().committed()) < 2 and kind != "query.hello"
        return None if missing else message

    federation.grid.before = before
    run = federation.run()
    assert [len(run.load(number).survivors) for number in range(3)] == [3, 3, 4]
    assert federation.homes[2].chain().head == run.last().head
    assert len(federation.charges(2)) == 1
    assert run.last().measured.trained == {"alder": 3, "birch": 3, "cedar": 1, "dogwood": 3}


def test_a_member_that_joins_late_takes_part(found: Callable) -> None:
    federation = found(rounds=2)
    federation.grid.online = [0, 1, 3]

    def before(kind, member, message):
        if len(federation.directory().committed()) == 1:
            federation.grid.online = [0, 1, 2, 3]
        return message

    federation.grid.before = before
    tell = federation.events.append

    class Joining(list):
        def append(self, event):
            tell(event)
            federation.grid.online = [0, 1, 2, 3] if event.phase == "done" else federation.grid.online

    federation.events = Joining()
    run = federation.run()
    assert [len(run.load(number).survivors) for number in range(2)] == [3, 4]
    assert federation.homes[2].chain().head == run.last().head


def test_a_node_that_left_between_roll_call_and_round_is_a_dropout(found: Callable) -> None:
    federation = found(rounds=1)

    def before(kind, member, message):
        if kind == "train.round":
            federation.grid.unreachable = {3}
        return message

    federation.grid.before = before
    assert federation.run().load(0).survivors == ("alder", "birch", "cedar")


def test_a_sum_that_moves_nothing_is_not_committed(found: Callable, monkeypatch) -> None:
    federation = found(rounds=1)
    monkeypatch.setattr(
        type(strategy_of(federation.charter)), "apply", lambda self, adapter, state, *rest: (adapter, state)
    )
    with pytest.raises(UserError, match="unmoved"):
        federation.run()
    assert federation.directory().committed() == []
    assert server_run.ATTEMPTS == 3
