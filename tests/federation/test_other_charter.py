"""The members replace their charter while a round is unfinished: what was made under the old one never leaves."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.charter import policy as policies
from cotune.charter.charter import Charter
from cotune.charter.refusal import Refusal
from cotune.client.participation import Member
from cotune.errors import UserError

RUN, OTHER = b"r" * 16, b"o" * 16


def stricter(federation: Any) -> Charter:
    """The same members, budget and rounds; nobody trusts anybody any more, or there is privacy at last."""
    old = federation.charter.privacy
    if old.enabled:
        terms = replace(old, trust="nobody", organizations=0, colluders=0, dropouts=0)
    else:
        terms = replace(old, enabled=True, epsilon=8.0, delta=1e-5, noise_multiplier=0.9)
    return Charter.model_validate(dict(federation.charter) | {"privacy": terms})


def room(charter: Charter) -> Charter:
    """More noise than the rounds need, so that the budget is no reason to refuse."""
    terms = replace(charter.privacy, noise_multiplier=3 * charter.privacy.noise_multiplier)
    return Charter.model_validate(dict(charter) | {"privacy": terms})


def forbid(federation: Any) -> None:
    """No policy allows the old terms any more."""
    for home in federation.homes:
        changes = {"allow_honest_majority": False, "allow_without_privacy": False}
        policies.save(policies.load(home.policy).model_copy(update=changes), home.policy)


@pytest.mark.parametrize("terms", [{"shared": True}, {"enabled": False}], ids=["shared noise", "no noise"])
def test_a_run_stays_under_its_charter(found: Callable, terms: dict[str, bool]) -> None:
    """Same roster, same run, next attempt: what is on disk has the noise of the old charter and was charged to it."""
    federation = found(rounds=2, change=room, **terms)
    home = federation.homes[0]
    federation.begin(RUN)
    made, charges = home.pending().contribution, federation.charges(0)
    federation.agree(stricter(federation))
    forbid(federation)
    with pytest.raises(Refusal) as no:
        federation.begin(RUN, attempt=1)
    assert no.value.code == "plan.charter"
    assert federation.charges(0) == charges
    federation.begin(OTHER)
    assert not np.array_equal(home.pending().contribution, made)
    assert {charge.charter for charge in federation.charges(0)} - {charge.charter for charge in charges} == {
        federation.charter.digest()
    }


def test_runs_are_counted_under_the_charter_that_they_were_begun_under(found: Callable) -> None:
    federation = found(rounds=2)
    federation.begin(RUN)
    federation.agree(Charter.model_validate(dict(federation.charter) | {"epoch": 0, "rounds": 1}))
    federation.begin(OTHER)
    for run, code in ((RUN, "plan.charter"), (b"u" * 16, "policy.runs")):
        with pytest.raises(Refusal) as no:
            federation.begin(run, attempt=1)
        assert no.value.code == code


def test_a_contribution_of_another_charter_is_not_sent_even_where_the_chain_does_not_tell(found: Callable) -> None:
    federation = found(rounds=2, shared=True, change=room)
    home = federation.homes[0]
    federation.begin(RUN)
    made = home.pending().contribution
    federation.agree(stricter(federation))
    home.set_chain(replace(home.chain(), charter=federation.charter.digest()))
    federation.begin(RUN, attempt=1)
    assert not np.array_equal(home.pending().contribution, made)
    assert {(charge.attempt, charge.charter) for charge in federation.charges(0)} >= {(1, federation.charter.digest())}


@pytest.mark.parametrize("kind", ["query.shares", "query.upload", "query.survivors", "query.reveal"])
def test_a_round_ends_with_its_charter(found: Callable, kind: str) -> None:
    federation = found(rounds=1, shared=True)
    home, seen = federation.homes[0], {}

    def before(found: str, member: int, message: Any) -> Any:
        if (found, member) == (kind, 0) and not seen:
            seen["kept"] = home.pending()
            federation.agree(stricter(federation))
            forbid(federation)
        return message

    def after(found: str, member: int, message: Any) -> Any:
        if (found, member) == (kind, 0):
            seen["refused"] = message.content["body"]["refused"]
            assert "vector" not in message.content
        return message

    federation.grid.before, federation.grid.after = before, after
    with pytest.raises(UserError):
        federation.run()
    assert seen["refused"] == "round.charter"
    with pytest.raises(Refusal, match="under another charter"):
        Member(home).reveal(b"")


def test_a_charter_or_signature_changed_behind_a_living_node_is_found(found: Callable) -> None:
    """What is kept between messages is kept by the bytes of the files: times and sizes can be set as they were."""
    federation = found(rounds=1)
    home = federation.homes[0]
    before = Member(home).charter
    assert Member(home).charter is before

    def rewrite(file: Path, content: bytes) -> None:
        about = file.stat()
        assert len(content) == about.st_size
        with file.open("r+b") as opened:
            opened.write(content)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
        assert (file.stat().st_ino, file.stat().st_mtime_ns) == (about.st_ino, about.st_mtime_ns)

    more = home.charter.read_bytes().replace(b"rounds: 1", b"rounds: 9", 1)
    for file, changed in ((home.charter, more), (home.signatures, _other_digit(home.signatures.read_bytes()))):
        content = file.read_bytes()
        assert changed != content
        rewrite(file, changed)
        with pytest.raises(Refusal) as no:
            Member(home)
        assert no.value.code == "charter.signature"
        rewrite(file, content)
        assert Member(home).charter == before


def _other_digit(signatures: bytes) -> bytes:
    """The file with another last digit of its first signature."""
    at = signatures.index(b'",') - 1
    return signatures[:at] + (b"0" if signatures[at : at + 1] != b"0" else b"1") + signatures[at + 1 :]


def test_a_policy_changed_behind_a_living_node_is_read(found: Callable) -> None:
    federation = found(rounds=1)
    home = federation.homes[0]
    before = Member(home).policy
    policies.save(before.model_copy(update={"max_epsilon": 1.0}), home.policy)
    assert Member(home).policy.max_epsilon == 1.0
