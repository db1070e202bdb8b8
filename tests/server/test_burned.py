"""What follows from burned rounds: who is proven to have done it, when a run stops, what such a round shows."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.privacy.terms import PrivacyTerms
from cotune.server.burned import asked_to_sign, burned, left_out, proven, refusals, stop_if_spoiled
from cotune.server.measured import Measured
from cotune.server.run_directory import Attempt, Committed, RunDirectory
from cotune.strategies.base import ServerState

NAMES = ("alder", "birch", "cedar", "dogwood")
CHARTER: Any = SimpleNamespace(
    members=[SimpleNamespace(name=name) for name in NAMES],
    privacy=PrivacyTerms(True, "patient", 8.0, 1e-3, 1.0, 1.0, 0.25, 4, 10.0, 0.1),
)


def attempt(
    number: int, code: str = "", named: int | None = None, signing: bool = True, count: int = 0
) -> list[Attempt]:
    """The notes of one attempt; no code: the server was killed."""
    noted = [Attempt(number, count, False)]
    noted += [Attempt(number, count, True)] if signing else []
    return noted + ([Attempt(number, count, False, (0, 1, 2), (), code, named)] if code else [])


def round_of(number: int, record: bytes = b"") -> Committed:
    return Committed(number, np.zeros(2, np.float32), ServerState((0,), {}), "00", (), Measured(), record)


def run_of(path: Path, *rounds: list[Attempt] | None) -> RunDirectory:
    """A run directory of rounds that were burned after these notes; None: committed."""
    folder = RunDirectory(path, "ab" * 32)
    for number, noted in enumerate(rounds):
        for note in noted or []:
            folder.note(note)
        folder.commit(round_of(number, b"" if noted else b"record"))
    return folder


@pytest.mark.parametrize("code", ["unmask.secret", "share.offer"])
def test_a_refusal_after_signing_proves_whose_fault_it_is(code: str) -> None:
    assert proven(attempt(0, code, 3) + attempt(1, code, 1)) == {1, 3}
    assert proven(attempt(0, code, 3, signing=False) + attempt(1, code)) == set()
    # The same number of an attempt in another round proves nothing.
    assert proven(attempt(0, code, 3, signing=False) + attempt(1)) == set()


def test_other_refusals_prove_nothing() -> None:
    for code in ("sum.control", "sum.range", "round.too_few", "reveal.share"):
        noted = attempt(0, code, 3)
        assert asked_to_sign(noted)
        assert [found.refused for found in refusals(noted)] == [code]
        assert proven(noted) == set()
    assert not asked_to_sign(attempt(0, "round.too_few", signing=False))


A, B, KILLED = "unmask.secret", "sum.control", ""


@pytest.mark.parametrize(
    ("rounds", "stops"),
    [
        ([A], False),
        ([None, KILLED, None], False),
        ([A, B], True),
        ([B, B, B], True),
        ([A, None, B], True),
        ([A, None, None, None, B, None], True),
        ([None, A, B], True),
        ([KILLED, None, KILLED], True),
        ([A, KILLED], True),
    ],
)
def test_two_burned_rounds_of_a_run_stop_it(tmp_path: Path, rounds: list[str | None], stops: bool) -> None:
    noted = [None if code is None else attempt(number, code, 3) for number, code in enumerate(rounds)]
    folder = run_of(tmp_path, *noted)
    if not stops:
        return stop_if_spoiled(CHARTER, folder)
    with pytest.raises(UserError, match=r"rounds of this run were spoiled") as no:
        stop_if_spoiled(CHARTER, folder)
    assert "\n" not in str(no.value)


def test_who_an_opened_piece_convicts_or_parts_sits_out() -> None:
    noted = attempt(0, B)
    noted[-1] = replace(noted[-1], convicted=(2,), disputes=((0, 1),))
    assert (proven(noted), left_out(noted)) == ({2}, {1, 2})
    assert left_out(noted[:1] + noted[2:]) == set()  # nobody was asked to sign: there was nothing to open


def test_it_says_each_refusal_and_whom_it_names(tmp_path: Path) -> None:
    folder = run_of(tmp_path, attempt(0, A, 3), attempt(1, B))
    with pytest.raises(UserError, match=r"round 1: unmask.secret, dogwood; round 2: sum.control, no member is named"):
        stop_if_spoiled(CHARTER, folder)


def test_a_round_that_a_crash_burned_is_said_to_be(tmp_path: Path) -> None:
    early = attempt(0, "round.too_few", signing=False)
    folder = run_of(tmp_path, early + attempt(0, KILLED, count=1), attempt(1, A, 3))
    with pytest.raises(UserError, match=r"round 1: the coordinator was interrupted; round 2: unmask\.secret, dogwood"):
        stop_if_spoiled(CHARTER, folder)


def test_a_burned_round_shows_nothing_and_keeps_what_was_counted() -> None:
    measured = Measured(2.5, 0.5, 40.0, 0.1, 9.0, bytes_up=1000, contributions=7, trained={"alder": 2, "birch": 1})
    before = Committed(4, np.ones(2, np.float32), ServerState((5,), {}), "ab", NAMES, measured, b"record")
    after = burned(CHARTER, 3, 5, before, attempt(5, A, 3))
    assert (after.number, after.head, after.survivors, after.record, after.state) == (5, "ab", (), b"", before.state)
    assert np.array_equal(after.adapter, before.adapter)
    shown = after.measured
    assert replace(shown, bytes_up=0, contributions=0, trained={}, epsilon={}) == Measured()
    assert (shown.bytes_up, shown.contributions) == (1000, 7)
    assert shown.trained == {"alder": 3, "birch": 2, "cedar": 1, "dogwood": 1}
    spent: Any = shown.epsilon
    assert spent["alder"] > spent["birch"] > spent["cedar"] == spent["dogwood"] > 0


def test_with_shared_noise_a_burned_round_costs_as_often_as_something_may_have_been_sent() -> None:
    terms = replace(CHARTER.privacy, trust="honest_majority", organizations=4, colluders=1, dropouts=1)
    charter: Any = SimpleNamespace(members=CHARTER.members, privacy=terms)
    unsent = Attempt(0, 1, False, (0, 1, 2), (), "round.too_few", sent=False)
    noted = [*attempt(0, "round.too_few", signing=False), Attempt(0, 1, False), unsent, *attempt(0, A, 3, count=2)]
    assert burned(charter, 1, 0, round_of(-1), noted).measured.trained == dict.fromkeys(NAMES, 2)
    assert burned(CHARTER, 1, 0, round_of(-1), noted).measured.trained == dict.fromkeys(NAMES, 1)
