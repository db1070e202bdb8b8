"""One file of a home comes back from a backup, or is gone, and the others are as they were: the node notices."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.charter.charter import Charter
from cotune.client.participation import Member
from cotune.errors import UserError
from cotune.secagg.refused import Refused

RUN = b"r" * 16


def twice_the_noise(charter: Charter) -> Charter:
    """The budget has room for a second attempt."""
    terms = replace(charter.privacy, noise_multiplier=2 * charter.privacy.noise_multiplier)
    return Charter.model_validate(dict(charter) | {"privacy": terms})


class StopError(Exception):
    """The server ends here."""


def stop_after(federation: Any, kind: str, member: int = 0) -> None:
    """Run until a member has answered one kind of message."""

    def after(found: str, who: int, message: Any) -> Any:
        if (found, who) == (kind, member):
            raise StopError
        return message

    federation.grid.after = after
    with pytest.raises(StopError):
        federation.run()


@pytest.mark.parametrize("kind", ["train.round", "query.shares", "query.upload", "query.survivors"])
def test_an_emptied_journal_stops_the_node(found: Callable, kind: str) -> None:
    """Else it would join a round again whose survivors it signed, and sign others."""
    federation = found(rounds=2)
    home = federation.homes[0]
    stop_after(federation, kind)
    run = bytes.fromhex(home.chain().run)
    home.journal.write_bytes(b"")
    with pytest.raises(UserError, match=r"journal: round 1 attempt 1 of run .*, in which this node took part, is not"):
        federation.begin(run, attempt=1)


def test_a_journal_that_ends_an_attempt_too_early_stops_the_node(found: Callable) -> None:
    federation = found(rounds=2)
    home = federation.homes[0]
    federation.begin(RUN)
    old = home.journal.read_bytes()
    federation.begin(RUN, attempt=1)
    home.journal.write_bytes(old)
    with pytest.raises(UserError, match="round 1 attempt 2 of run"):
        federation.begin(RUN, attempt=2)


def test_chains_that_are_gone_or_older_stop_the_node(found: Callable) -> None:
    """Else it would take another history of a round that it signed, and as many runs again as its policy allows."""
    federation = found(rounds=2)
    home = federation.homes[0]
    federation.begin(RUN)
    (home.path / "chains.json").unlink()
    with pytest.raises(UserError, match=r"chains\.json: run .*, in which this node signed, is not in it"):
        federation.begin(RUN, attempt=1)
    with pytest.raises(UserError, match=r"chains\.json"):
        Member(home).reveal(b"")


def test_a_shared_noise_contribution_that_came_back_is_not_sent_again(found: Callable) -> None:
    federation = found(rounds=1, shared=True, change=twice_the_noise)
    home = federation.homes[0]

    def before(kind: str, member: int, message: Any) -> Any:
        if (kind, member) == ("query.upload", 0):
            shutil.copy(home.path / "pending.npz", home.path.parent / "old.npz")
        return message

    federation.grid.before = before
    stop_after(federation, "query.upload")
    assert home.pending() is None
    shutil.copy(home.path.parent / "old.npz", home.path / "pending.npz")
    sent = home.pending().contribution
    federation.begin(bytes.fromhex(home.chain().run), attempt=1)
    assert not np.array_equal(home.pending().contribution, sent)
    assert {charge.attempt for charge in federation.charges(0)} == {0, 1}


def test_a_contribution_with_noise_of_its_own_may_come_back(found: Callable) -> None:
    """It is the same release, and charged."""
    federation = found(rounds=1)
    home = federation.homes[0]
    stop_after(federation, "query.upload")
    sent = home.pending().contribution
    federation.begin(bytes.fromhex(home.chain().run), attempt=1)
    assert np.array_equal(home.pending().contribution, sent)
    assert {charge.attempt for charge in federation.charges(0)} == {0}


def test_a_round_whose_record_is_here_is_over(found: Callable) -> None:
    """Also for a member that was not asked to sign its survivors, which its journal would remember."""
    federation = found(rounds=1)
    federation.lose("query.survivors", 0)
    run = federation.run()
    home = federation.homes[0]
    assert home.chain().verified == 0
    assert not Member(home).journal.survived(run.run_id, 0)
    with pytest.raises(Refused, match=r"plan\.replay"):
        federation.begin(run.run_id, attempt=1, prev_head=bytes.fromhex(home.chain().head))


def test_what_was_trained_on_follows_the_policy_at_every_message(found: Callable) -> None:
    federation = found(rounds=1)
    home = federation.homes[0]
    bench = Member(home)._workbench()
    assert Member(home)._workbench() is bench
    data = Member(home).policy.data
    data.write_text("".join(f"{line}\n" for line in data.read_text().splitlines()[:6]))
    assert Member(home)._workbench().units == 6
    assert bench.units == 12
    home.policy.write_text(home.policy.read_text().replace("unit: unit", "unit: prompt"))
    assert Member(home)._workbench() is not bench
