"""Files of a home that come back together from a moment within one attempt: nothing is signed a second time.

A journal and the round's secrets from before a signature would let the node sign another statement in its place; the
chains remember how long the journal was.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.charter.messages import BODY
from cotune.secagg.wire import seal

KINDS = ("query.shares", "query.upload", "query.survivors", "query.reveal")
TOGETHER = ("journal", "round.bin")


def keep(home: Any, names: tuple[str, ...], folder: Path) -> None:
    """A backup of some files, in the place of an earlier one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in names:
        if (home.path / name).exists():
            shutil.copy2(home.path / name, folder / name)


def put_back(home: Any, names: tuple[str, ...], folder: Path) -> None:
    for name in names:
        (home.path / name).unlink(missing_ok=True)
        if (folder / name).exists():
            shutil.copy2(folder / name, home.path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_journal_and_secrets_from_before_a_signature_sign_nothing(
    found: Callable[..., Any], hostile_to: Callable[..., Any], kind: str, tmp_path: Path
) -> None:
    """The very message that was answered, and any other, is refused once the two files are older than the chains."""
    federation = found(rounds=2)
    hostile, home, asked = hostile_to(federation), federation.homes[0], []

    def before(found: str, member: int, message: Any) -> Any:
        if (found, member) == (kind, 0):
            keep(home, TOGETHER, tmp_path / "old")
            asked.append(message.content[BODY][BODY])
        return message

    def after(found: str, member: int, message: Any) -> Any:
        if (found, member) == (kind, 0):
            assert message.content[BODY]["refused"] == ""
            keep(home, TOGETHER, tmp_path / "new")
            put_back(home, TOGETHER, tmp_path / "old")
            others = (asked[0], seal("survivors", b"x" * 40, federation.key), b"")
            assert [hostile.refused(kind, body, 0) for body in others] == ["error.node"] * 3
            assert hostile.refused("train.round", hostile.plan(b"q" * 16).sign(federation.key), 0) == "error.node"
            assert "journal: it is shorter than when this node answered last" in home.log.read_text()
            assert home.journal.read_bytes() == (tmp_path / "old" / "journal").read_bytes()
            put_back(home, TOGETHER, tmp_path / "new")
            federation.grid.after = federation.grid.before = lambda kind, member, message: message
        return message

    federation.grid.before, federation.grid.after = before, after
    run = federation.run()
    assert len(asked) == 1
    assert [len(run.load(number).survivors) for number in range(2)] == [4, 4]


def test_a_second_set_of_survivors_is_not_signed_from_a_backup(
    found: Callable[..., Any], hostile_to: Callable[..., Any], tmp_path: Path
) -> None:
    """The attack as it would be done: another bundle of survivors, which the old secrets alone would accept."""
    federation = found(rounds=1)
    hostile, home = hostile_to(federation), federation.homes[0]
    answers: list[str] = []
    others = smaller_survivors(federation)

    def before(kind: str, member: int, message: Any) -> Any:
        if (kind, member) == ("query.survivors", 0):
            keep(home, TOGETHER, tmp_path / "old")
            keep(home, ("round.bin",), tmp_path / "secrets")
        return message

    def after(kind: str, member: int, message: Any) -> Any:
        if (kind, member) == ("query.survivors", 0) and not answers:
            keep(home, TOGETHER, tmp_path / "new")
            put_back(home, TOGETHER, tmp_path / "old")
            answers.append(hostile.refused("query.survivors", others[0], 0))
            # With the journal as it is, the secrets alone come back: the journal says no.
            put_back(home, TOGETHER, tmp_path / "new")
            put_back(home, ("round.bin",), tmp_path / "secrets")
            answers.append(hostile.refused("query.survivors", others[0], 0))
            # With an empty memory the same bundle is signed: it is the memory that stands in the way.
            if other_home(federation, tmp_path):
                answers.append(hostile.refused("query.survivors", others[0], 0))
            put_back(home, (*TOGETHER, "chains.json"), tmp_path / "whole")
        return message

    def other_home(federation: Any, folder: Path) -> bool:
        put_back(home, TOGETHER, folder / "new")
        keep(home, (*TOGETHER, "chains.json"), folder / "whole")
        put_back(home, TOGETHER, folder / "old")
        text = (home.path / "chains.json").read_text()
        size = home.journal.stat().st_size
        chain = home.chain()
        assert f'"signed": {chain.signed}' in text
        (home.path / "chains.json").write_text(text.replace(f'"signed": {chain.signed}', f'"signed": {size}'))
        return True

    federation.grid.before, federation.grid.after = before, after
    run = federation.run()
    assert answers == ["error.node", "journal.conflict", ""]
    assert len(run.load(0).survivors) == 4


def smaller_survivors(federation: Any) -> list[bytes]:
    """Filled as the server closes its uploads: the bundle that it would send without dogwood."""
    from cotune.secagg.coordinator import Coordinator

    made: list[bytes] = []
    close = Coordinator.close_uploads

    def both(self: Coordinator) -> bytes:
        import copy

        fewer = copy.copy(self)
        fewer.__dict__ = {name: copy.copy(value) for name, value in self.__dict__.items()}
        drop(fewer, 3)
        made.append(close(fewer))
        return close(self)

    Coordinator.close_uploads = both  # type: ignore[method-assign]
    federation.undo = lambda: setattr(Coordinator, "close_uploads", close)
    return made
