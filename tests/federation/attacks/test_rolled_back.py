"""Files of a home that come back together from a moment within one attempt: nothing is signed a second time.

A journal and the round's secrets from before a signature would let the node sign another statement in its place; the
chains remember how long the journal was.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cotune.charter.messages import BODY
from cotune.secagg.messages import decode_list, encode_list
from cotune.secagg.wire import peek, seal

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


def without(bundle: bytes, member: int, key: Any) -> bytes:
    """The coordinator's bundle of survivors without one of them."""
    context, envelopes = decode_list(peek(bundle)[0])
    rest = tuple(envelope for at, envelope in enumerate(envelopes) if at != member)
    return seal("survivors", encode_list(context, rest), key)


def test_a_second_set_of_survivors_is_not_signed_from_a_backup(
    found: Callable[..., Any], hostile_to: Callable[..., Any], tmp_path: Path
) -> None:
    """Another bundle of survivors, which the old secrets alone would accept: only the memory stands in the way."""
    federation = found(rounds=1)
    hostile, home, answers = hostile_to(federation), federation.homes[0], list[str]()
    other: list[bytes] = []

    def ask() -> None:
        answers.append(hostile.refused("query.survivors", other[0], 0))

    def before(kind: str, member: int, message: Any) -> Any:
        if (kind, member) == ("query.survivors", 0):
            keep(home, TOGETHER, tmp_path / "old")
            other.append(without(message.content[BODY][BODY], 3, federation.key))
        return message

    def after(kind: str, member: int, message: Any) -> Any:
        if (kind, member) == ("query.survivors", 0):
            assert message.content[BODY]["refused"] == ""
            keep(home, (*TOGETHER, "chains.json"), tmp_path / "new")
            ask()  # nothing was put back: the step is over
            put_back(home, TOGETHER, tmp_path / "old")
            ask()  # both: the chains know that the journal was longer
            put_back(home, TOGETHER, tmp_path / "new")
            put_back(home, TOGETHER[1:], tmp_path / "old")
            ask()  # the secrets alone: the journal knows what was signed
            put_back(home, TOGETHER, tmp_path / "old")
            forget(home)
            ask()  # the chains too: a whole home that came back, against which nothing here helps
            put_back(home, (*TOGETHER, "chains.json"), tmp_path / "new")
        return message

    federation.grid.before, federation.grid.after = before, after
    run = federation.run()
    assert answers == ["phase", "error.node", "journal.conflict", ""]
    assert len(run.load(0).survivors) == 4


def forget(home: Any) -> None:
    """What a copy of the chains from the same moment would say about the journal."""
    home.set_chain(replace(home.chain(), signed=home.journal.stat().st_size))
