"""What a home does about files that a kill left, that are gone, or that belong to another round."""

import errno
import os
from pathlib import Path

import pytest
from cotune.client.chains import Chain
from cotune.client.home import NodeHome
from cotune.errors import UserError


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return NodeHome.create(tmp_path / "home")


def test_unfinished_files_go_and_others_stay(home: NodeHome) -> None:
    for name in ("round.bin", "pending.npz", "chains.json"):
        (home.path / f".{name}.k1ll3d__").write_bytes(b"half a secret")
    (home.path / ".identity.key.k1ll3d__").write_bytes(b"written by a command without the lock")
    home.set_round_secrets(b"whole")
    with home.locked():
        left = {file.name for file in home.path.iterdir()}
    assert left == {".identity.key.k1ll3d__", "round.bin", "lock"}
    assert home.round_secrets() == b"whole"


def test_a_journal_that_is_gone_is_noticed(home: NodeHome) -> None:
    home.require_journal()
    home.set_chain(Chain("ab", "cd", 0, 0))
    with pytest.raises(UserError, match="journal is gone"):
        home.require_journal()
    home.journal.touch(0o600)
    home.require_journal()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_keeps_what_was(
    home: NodeHome, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    home.set_round_secrets(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(UserError, match=r"round\.bin: No space left on device: free disk space"):
            home.set_round_secrets(b"new")
    assert home.round_secrets() == b"old"
    assert [file.name for file in home.path.iterdir()] == ["round.bin"]
