"""A home is its owner's alone, and one process works in it at a time."""

import json
import multiprocessing
import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from cotune.client.chains import Chain
from cotune.client.home import NodeHome
from cotune.client.pending import Pending
from cotune.errors import UserError


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return NodeHome.create(tmp_path / "home")


def test_a_new_home_is_private_and_never_replaces_one(home: NodeHome) -> None:
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    with pytest.raises(UserError, match="exists"):
        NodeHome.create(home.path)


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o704, 0o755, 0o770, 0o777])
def test_a_home_that_others_may_enter_is_refused(home: NodeHome, mode: int) -> None:
    home.path.chmod(mode)
    with pytest.raises(UserError, match="chmod 700"):
        NodeHome(home.path)


def test_a_home_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such node"):
        NodeHome(tmp_path / "none")


SECRETS = ("identity.key", "ledger.sqlite", "ledger.sqlite-journal", "ledger.sqlite.head", "journal", "chains.json")
SECRETS += ("round.bin", "pending.npz", "node.log", "lock", "cache/states.npy")
PAPERS = ("charter.yaml", "signatures.json", "policy.yaml", "node.yaml")


def _place(home: NodeHome, name: str) -> Path:
    file = home.path / name
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_bytes(b"")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("name", SECRETS + PAPERS)
def test_every_file_of_a_home_is_plain_and_closed(home: NodeHome, name: str) -> None:
    file = _place(home, name)
    with home.locked():
        pass
    for mode in (0o620, 0o602) if name in PAPERS else (0o620, 0o602, 0o640, 0o604, 0o601):
        file.chmod(mode)
        with pytest.raises(UserError, match=f"{name}: other users may"), home.locked():
            pass
    file.chmod(0o644 if name in PAPERS else 0o600)
    with home.locked():
        pass
    file.rename(home.path.parent / "elsewhere")
    file.symlink_to(home.path.parent / "elsewhere")
    with pytest.raises(UserError, match=f"{name}: not a plain file"), home.locked():
        pass
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(UserError, match=f"{name}: not a plain file"), home.locked():
        pass


def test_a_home_of_somebody_else_is_refused(home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    _place(home, "policy.yaml")
    about = os.lstat(home.path)
    other = os.stat_result([*about[:4], 4711, *about[5:10]])
    monkeypatch.setattr(os, "lstat", lambda path: other)
    with pytest.raises(UserError, match="owned by user 4711"):
        NodeHome(home.path)


def test_links_in_the_place_of_home_and_cache_are_refused(home: NodeHome, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home.path)
    with pytest.raises(UserError, match="link: not a plain folder"):
        NodeHome(tmp_path / "link")
    (tmp_path / "states").mkdir(mode=0o700)
    (home.path / "cache").symlink_to(tmp_path / "states")
    with pytest.raises(UserError, match="cache: not a plain folder"), home.locked():
        pass


@pytest.mark.parametrize("name", ["chains.json", "round.bin", "pending.npz"])
def test_what_a_home_reads_it_opens_without_following_links(home: NodeHome, name: str) -> None:
    home.set_chain(Chain("ab", "cd", 3, 1))
    home.set_round_secrets(b"secret")
    home.set_pending(Pending("ab", 3, 1, "ef", "01", np.array([1.5, -2.0])))
    (home.path / name).rename(home.path / "elsewhere")
    (home.path / name).symlink_to("elsewhere")
    read = {"chains.json": home.chains, "round.bin": home.round_secrets, "pending.npz": home.pending}[name]
    with pytest.raises(UserError, match=f"{name}: not a plain file"):
        read()


def test_what_a_home_writes_is_private_and_comes_back(home: NodeHome) -> None:
    old = os.umask(0)
    try:
        with home.locked():
            home.set_chain(Chain("ab", "cd", 3, 1))
            home.set_round_secrets(b"secret")
            home.set_pending(Pending("ab", 3, 1, "ef", "01", np.array([1.5, -2.0])))
            assert stat.S_IMODE(home.cache.stat().st_mode) == 0o700
    finally:
        os.umask(old)
    files = [file for file in home.path.iterdir() if file.is_file()]
    assert len(files) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    again = NodeHome(home.path)
    assert again.chain() == Chain("ab", "cd", 3, 1)
    assert again.round_secrets() == b"secret"
    pending = again.pending()
    assert pending is not None
    about = (pending.run, pending.round, pending.attempt, pending.model_hash, pending.charter)
    assert about == ("ab", 3, 1, "ef", "01")
    np.testing.assert_array_equal(pending.contribution, [1.5, -2.0])


def test_what_an_answer_leaves_is_durable_together(home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files are synced before they get their names, and the names behind the last of them."""
    home.set_chain(Chain("ab", "cd", 2, 0))
    synced: list[str] = []
    fsync, replaced = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: (synced.append("DF"[stat.S_ISREG(os.fstat(file).st_mode)]), fsync(file))[1]
    )
    monkeypatch.setattr(os, "replace", lambda *names: (synced.append("R"), replaced(*names))[1])
    home.set_signed(b"secret", Chain("ab", "cd", 3, 1))
    assert "".join(synced) == "FRFRD"
    again = NodeHome(home.path)
    assert (again.chain(), again.round_secrets()) == (Chain("ab", "cd", 3, 1), b"secret")
    assert stat.S_IMODE((home.path / "round.bin").stat().st_mode) == 0o600


def test_a_contribution_that_cannot_be_read_is_named(home: NodeHome) -> None:
    about = {"run": "ab", "round": 3, "attempt": 1, "model_hash": "ef"}  # no charter
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY"):
        (home.path / "pending.npz").write_bytes(content)
        (home.path / "pending.npz").chmod(0o600)
        with pytest.raises(UserError, match=r"pending\.npz cannot be read: delete it"):
            home.pending()
    np.savez(home.path / "pending.npz", about=np.array(json.dumps(about)), contribution=np.zeros(2))
    with pytest.raises(UserError, match=r"pending\.npz cannot be read: delete it"):
        home.pending()


def test_secrets_and_contribution_can_be_deleted_twice(home: NodeHome) -> None:
    for _ in range(2):
        home.set_round_secrets(None)
        home.set_pending(None)
    assert (home.round_secrets(), home.pending(), home.chain()) == (None, None, Chain())


def _count(path: Path, rounds: int) -> None:
    home = NodeHome(path)
    for _ in range(rounds):
        with home.locked():
            chain = home.chain()
            time.sleep(0.002)
            home.set_chain(Chain(chain.run, chain.head, chain.round + 1, 0))


def test_two_processes_do_not_mix(home: NodeHome) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(home.path, 15)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert home.chain().round == 29


def test_the_lock_goes_with_an_exception(home: NodeHome) -> None:
    with pytest.raises(RuntimeError), home.locked():
        raise RuntimeError
    with home.locked():
        pass
