"""What members are given after a round, and who goes on from it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cotune.secagg.record import RoundRecord
from cotune.secagg.wire import peek
from cotune.server.confirmation import BEHIND, UNCHECKED

OTHERS = ("alder", "cedar", "dogwood")
ALL = ("alder", "birch", "cedar", "dogwood")


def test_who_never_got_its_pieces_goes_on_when_they_come(found: Callable) -> None:
    federation = found(rounds=3)
    federation.lose("query.pieces", 1, times=2)  # after the first round, and before the second
    run = federation.run()
    assert [run.load(number).survivors for number in range(3)] == [ALL, OTHERS, ALL]
    assert federation.refusals("query.record") == [UNCHECKED]
    assert federation.homes[1].chain().head == run.last().head
    assert federation.homes[1].sum() is None


def test_pieces_are_shown_as_long_as_uploads_are_kept(found: Callable) -> None:
    """One lost message, and a round that the member missed altogether."""

    def keeps(charter: Any) -> Any:
        return charter.model_copy(update={"secagg": charter.secagg.model_copy(update={"audit_rounds": 4})})

    federation = found(rounds=4, change=keeps)

    def before(kind: str, member: int, message: Any) -> Any:
        done = len(federation.directory().committed())
        lost = member == 1 and ((done == 1 and kind == "query.pieces") or (done in (2, 3) and kind == "query.record"))
        return None if lost and len(federation.directory().attempts(3)) == 0 else message

    federation.grid.before = before
    run = federation.run()
    assert [run.load(number).survivors for number in range(3)] == [ALL, OTHERS, OTHERS]
    assert federation.homes[1].chain().head == run.last().head


def test_a_later_sum_does_not_make_a_member_forget_the_pieces_that_were_withheld(found: Callable) -> None:
    federation = found(rounds=3)
    federation.lose("query.pieces", 1)
    run = federation.run()
    assert [run.load(number).survivors for number in range(3)] == [ALL, OTHERS, OTHERS]
    assert len(federation.charges(1)) == 1
    assert set(federation.refusals("query.record")) == {UNCHECKED}
    assert federation.homes[1].chain().head == run.load(0).head
    assert "pieces of the sum of round 1 were asked for and never came" in federation.homes[1].log.read_text()


def test_a_member_that_was_away_is_given_the_model_before_the_last_round(found: Callable) -> None:
    federation = found(rounds=4)
    sent: list[tuple[str, bool]] = []

    def before(kind: str, member: int, message: Any) -> Any:
        away = member == 1 and len(federation.directory().committed()) in (1, 2)
        if kind == "query.record" and member == 1 and not away:
            sent.append((kind, "model" in message.content))
        return None if away and kind != "query.hello" else message

    federation.grid.before = before
    run = federation.run()
    assert [run.load(number).survivors for number in range(4)] == [ALL, OTHERS, OTHERS, ALL]
    assert sent[-2:] == [("query.record", True), ("query.record", False)]
    assert [home.model()[48:] for home in federation.homes] == [run.last().model.encode()] * 4


@pytest.mark.parametrize("lost", ["model.bin", "check.key"])
def test_a_lost_file_is_made_anew(found: Callable, lost: str) -> None:
    federation = found(rounds=2)

    def before(kind: str, member: int, message: Any) -> Any:
        if (kind, member) == ("query.record", 1) and len(federation.directory().recorded()) == 2:
            (federation.homes[1].path / lost).unlink(missing_ok=True)
        return message

    federation.grid.before = before
    run = federation.run()
    assert federation.homes[1].chain().head == run.last().head
    assert federation.homes[1].model()[48:] == run.last().model.encode()


@pytest.mark.parametrize("fails", [False, True], ids=["committed", "failed"])
def test_a_member_whose_model_went_after_it_was_told_is_told_again(found: Callable, fails: bool) -> None:
    """Also where the attempt that it declined comes to nothing: then it is in the next one."""
    federation = found(rounds=3)
    asked: set[int] = set()

    def before(kind: str, member: int, message: Any) -> Any:
        first = kind == "train.round" and len(federation.directory().recorded()) == 1 and member not in asked
        if first:
            asked.add(member)
        if first and member == 1:
            (federation.homes[1].path / "model.bin").unlink()
        return None if first and fails and member != 1 else message

    federation.grid.before = before
    run = federation.run()
    assert federation.refusals("train.round") == [BEHIND]
    assert [run.load(number).survivors for number in range(3)] == [ALL, ALL if fails else OTHERS, ALL]


def test_a_record_that_is_signed_in_another_way_draws_no_other_pieces(found: Callable) -> None:
    """The same round with another quorum of it: other bytes, the same sum."""
    federation = found(rounds=1)
    run = federation.run()
    record = RoundRecord.decode(peek(run.last().record)[0])
    other = replace(record, signatures=record.signatures[1:]).sign(federation.key)
    assert other != run.last().record
    answers = {federation.told(run, (message,)) for message in (run.last().record, other)}
    assert len(answers) == 1
