"""A committed round is whole or absent, and what was noted of attempts outlives a torn line."""

import os
import shutil

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.server.measured import Measured
from cotune.server.run_directory import Attempt, Committed, RunDirectory
from cotune.strategies.base import ServerState
from cotune.verify.kept import read_records

CHARTER = "ab" * 32


def committed(number: int, record: bytes = b"record") -> Committed:
    return Committed(
        number,
        np.arange(4, dtype=np.float32) + number,
        ServerState((number + 1, 2), {"momentum": np.ones(4)}),
        "00" * 32,
        ("a", "b", "c"),
        Measured(loss=1.5, trained={"a": 2}, epsilon={"a": 0.5}),
        record,
    )


def test_a_round_comes_back_as_it_was(tmp_path) -> None:
    RunDirectory(tmp_path, CHARTER).commit(committed(0))
    again = RunDirectory(tmp_path, CHARTER).last()
    assert again is not None
    np.testing.assert_array_equal(again.adapter, committed(0).adapter)
    np.testing.assert_array_equal(again.state.moments["momentum"], np.ones(4))
    assert (again.number, again.state.steps, again.survivors, again.measured, again.record) == (
        0,
        (1, 2),
        ("a", "b", "c"),
        Measured(loss=1.5, trained={"a": 2}, epsilon={"a": 0.5}),
        b"record",
    )


def test_the_run_keeps_its_identity_and_its_charter(tmp_path) -> None:
    first = RunDirectory(tmp_path, CHARTER)
    assert RunDirectory(tmp_path, CHARTER).run_id == first.run_id
    with pytest.raises(UserError, match="another charter"):
        RunDirectory(tmp_path, "cd" * 32)


def test_a_crash_while_committing_leaves_the_round_before(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every change of the disk in turn fails; the round is there whole once its folder has its name, and not before."""
    run = RunDirectory(tmp_path, CHARTER)
    run.commit(committed(0))
    for failing in range(100):
        calls = iter(range(1000))

        def cut(real, failing: int = failing, calls=calls):
            def call(*args, **kwargs):
                if next(calls) == failing:
                    raise OSError("power cut")
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patched:
            for name in ("fsync", "replace", "rename"):
                patched.setattr(os, name, cut(getattr(os, name)))
            try:
                run.commit(committed(1))
            except OSError as error:
                assert str(error) == "power cut"  # noqa: PT017 - the last pass raises nothing
            else:
                break
        assert run.committed() in ([0], [0, 1])
        if run.committed() == [0, 1]:
            np.testing.assert_array_equal(run.load(1).adapter, committed(1).adapter)
            shutil.rmtree(tmp_path / "rounds" / "0001")
    assert failing > 10
    assert RunDirectory(tmp_path, CHARTER).committed() == [0, 1]


def test_records_of_missed_rounds_skip_the_burned(tmp_path) -> None:
    run = RunDirectory(tmp_path, CHARTER)
    for number, record in enumerate((b"first", b"", b"third")):
        run.commit(committed(number, record))
    assert run.records(after=-1) == (b"first", b"third")
    assert run.records(after=0) == (b"third",)


def test_attempts_outlive_a_torn_line(tmp_path) -> None:
    run = RunDirectory(tmp_path, CHARTER)
    run.note(Attempt(3, 0, False))
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"round": 3, "att')
    run.note(Attempt(3, 1, True))
    assert run.attempts(3) == [Attempt(3, 0, False), Attempt(3, 1, True)]
    assert run.attempts(4) == []


def test_a_whole_note_that_is_not_understood_is_no_torn_one(tmp_path) -> None:
    """Passed over, an attempt whose survivors signed would be tried again, and its budget would not count."""
    run = RunDirectory(tmp_path, CHARTER)
    for foreign in ('{"round": 3, "attempt": 0, "signing": true, "later": 1}', "[3, 0, true]", '{"round": 3}'):
        (tmp_path / "attempts.jsonl").write_text(f"{foreign}\n")
        with pytest.raises(UserError, match=r"attempts\.jsonl: a note that this version does not know"):
            run.attempts()


def test_complaints_come_back_with_their_attempt(tmp_path) -> None:
    failed = Attempt(0, 1, signing=False, trained=(0, 2), complaints=("ab12", "cd34"))
    RunDirectory(tmp_path, CHARTER).note(failed)
    assert RunDirectory(tmp_path, CHARTER).attempts(0) == [failed]


def test_what_was_refused_comes_back_with_its_attempt(tmp_path) -> None:
    refused = Attempt(1, 0, signing=False, trained=(0, 1, 2), refused="unmask.secret", named=2)
    run = RunDirectory(tmp_path, CHARTER)
    run.note(Attempt(0, 0, signing=False))
    run.note(refused)
    assert run.attempts() == [Attempt(0, 0, signing=False), refused]


def test_records_are_read_without_making_a_run_directory(tmp_path) -> None:
    run = RunDirectory(tmp_path / "run", CHARTER)
    for number, record in enumerate((b"first", b"", b"third")):
        run.commit(committed(number, record))
    assert read_records(run.path, CHARTER) == [b"first", b"third"]
    assert run.recorded() == [0, 2]
    with pytest.raises(UserError, match="another charter"):
        read_records(run.path, "cd" * 32)
    for content in (None, b"{", b"[]", b"{}"):
        folder = tmp_path / "other"
        folder.mkdir(exist_ok=True)
        if content is not None:
            (folder / "run.json").write_bytes(content)
            (folder / "rounds").mkdir(exist_ok=True)
        before = sorted(folder.iterdir())
        with pytest.raises(UserError, match="not a run directory"):
            read_records(folder, CHARTER)
        assert sorted(folder.iterdir()) == before
