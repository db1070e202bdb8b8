"""A run in which too few members have budget for the last round ends with the rounds that it has."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from cotune.client.home import NodeHome
from cotune.client.participation import Member
from cotune.errors import UserError
from cotune.privacy.accounts import OverBudget
from cotune.privacy.spending import epsilons
from cotune.server.spent import rounds_spent


class Killed(BaseException):
    """Not an error that the node could answer with."""


def die(*words: object) -> None:
    raise Killed


def kill_in_training(federation: Any, charges: int, *members: int) -> None:
    """The nodes of some members die once, in the round that they begin with so many charges: after its charge and
    before its contribution is on disk.
    """
    left = set(members)

    def before(kind: str, member: int, message: Any) -> Any:
        if kind != "train.round" or member not in left or len(federation.charges(member)) < charges:
            return message
        left.remove(member)
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            patch.setattr(NodeHome, "set_pending", die)
            federation.grid.deliver(message, member)
            raise AssertionError("it was to die")
        return None

    federation.grid.before = before


def test_what_was_committed_is_kept_and_all_that_was_spent_is_counted(found: Callable) -> None:
    federation = found(rounds=3)
    kill_in_training(federation, 1, 0, 1)
    run = federation.run()
    assert run.recorded() == run.committed() == [0, 1]
    assert set(federation.refusals()) == {"ledger.budget"}
    assert [len(federation.charges(member)) for member in range(4)] == [3, 3, 3, 3]
    # The vectors of the two that died never left; the other two trained for the round that never came.
    spent = rounds_spent(federation.charter, run)
    assert spent == {"alder": 2, "birch": 2, "cedar": 3, "dogwood": 3}
    assert max(epsilons(federation.charter.privacy, 1, spent).values()) <= 8.0


def test_started_again_it_asks_anew_and_costs_nothing(found: Callable) -> None:
    federation = found(rounds=3)
    kill_in_training(federation, 1, 0, 1)
    last = federation.run().last()
    charges = [federation.charges(member) for member in range(4)]
    again = federation.run().last()
    assert (again.number, again.head) == (last.number, last.head)
    assert np.array_equal(again.adapter, last.adapter)
    assert [federation.charges(member) for member in range(4)] == charges
    assert rounds_spent(federation.charter, federation.directory())["cedar"] == 3


def test_with_shared_noise_no_start_counts_what_was_never_sent(found: Callable) -> None:
    federation = found(rounds=3, shared=True)
    kill_in_training(federation, 2, 0, 1)
    for _ in range(3):
        run = federation.run()
        assert run.committed() == [0, 1]
        spent = rounds_spent(federation.charter, run)
        assert spent == {"alder": 2, "birch": 2, "cedar": 3, "dogwood": 3}
    assert [len(federation.charges(member)) for member in range(4)] == [6, 6, 6, 6]


@pytest.mark.parametrize("phase", ["share", "upload", "survive", "reveal"])
def test_a_member_that_says_so_later_ends_nothing(found: Callable, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    """Whoever lies when it has seen more must not choose the round after which the adapter is released."""
    federation = found(rounds=3)
    honest = getattr(Member, phase)

    def lie(self: Member, message: bytes) -> Any:
        if self.settings.name in ("alder", "birch") and federation.directory().committed() == [0]:
            raise OverBudget("a lie", "none")
        return honest(self, message)

    monkeypatch.setattr(Member, phase, lie)
    with pytest.raises(UserError, match=r"too few members agree \(alder: ledger.budget, birch: ledger.budget\)"):
        federation.run()


@pytest.mark.parametrize("phase", ["share", "upload", "survive", "reveal"])
def test_nor_does_it_beside_one_that_says_so_at_once(
    found: Callable, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Alder has no budget left; birch lies, having seen that one more refusal would end the run."""
    federation = found(rounds=3)
    begin, honest = Member.begin, getattr(Member, phase)

    def second(member: Member, name: str) -> bool:
        return member.settings.name == name and federation.directory().committed() == [0]

    def decline(self: Member, *words: Any) -> Any:
        if second(self, "alder"):
            raise OverBudget("spent", "none")
        return begin(self, *words)

    def lie(self: Member, message: bytes) -> Any:
        if second(self, "birch"):
            raise OverBudget("a lie", "none")
        return honest(self, message)

    monkeypatch.setattr(Member, "begin", decline)
    monkeypatch.setattr(Member, phase, lie)
    with pytest.raises(UserError, match=r"too few members agree \(alder: ledger.budget, birch: ledger.budget\)"):
        federation.run()


def test_one_such_member_is_left_behind_and_the_others_finish(found: Callable) -> None:
    federation = found(rounds=3)
    kill_in_training(federation, 1, 0)
    # The round is completed without it: three of four are enough. It trains anew only where it is asked again.
    assert federation.run().committed() == [0, 1, 2]


def test_without_a_committed_round_it_is_an_error(found: Callable) -> None:
    federation = found(rounds=1)
    kill_in_training(federation, 0, 0, 1)
    with pytest.raises(UserError, match=r"too few members agree \(alder: ledger.budget, birch: ledger.budget\)"):
        federation.run()


def test_another_refusal_beside_it_is_an_error(found: Callable) -> None:
    """Who refuses for another reason may be persuaded: a person has to look."""
    federation = found(rounds=3)
    kill_in_training(federation, 1, 0, 1)
    kept = federation.grid.before

    def before(kind: str, member: int, message: Any) -> Any:
        if kind == "train.round" and len(federation.charges(1)) == 3 and member == 1:
            policy = federation.homes[1].policy
            policy.write_text(policy.read_text().replace("max_epsilon: 8.0", "max_epsilon: 1.0"))
        return kept(kind, member, message)

    federation.grid.before = before
    with pytest.raises(UserError, match=r"too few members agree \(alder: ledger.budget, birch: policy.epsilon\)"):
        federation.run()
