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
from cotune.client.home import Home, Pending
from cotune.errors import UserError


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home")


def test_a_new_home_is_private_and_never_replaces_one(home: Home) -> None:
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    with pytest.raises(UserError, match="exists"):
        Home.create(home.path)


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o704, 0o755, 0o770, 0o777])
def test_a_home_that_others_may_enter_is_refused(home: Home, mode: int) -> None:
    home.path.chmod(mode)
    with pytest.raises(UserError, match="chmod 700"):
        Home(home.path)


def test_a_home_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such node"):
        Home(tmp_path / "none")


def test_what_a_home_writes_is_private_and_comes_back(home: Home) -> None:
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
    again = Home(home.path)
    assert again.chain() == Chain("ab", "cd", 3, 1)
    assert again.round_secrets() == b"secret"
    pending = again.pending()
    assert pending is not None
    about = (pending.run, pending.round, pending.attempt, pending.model_hash, pending.charter)
    assert about == ("ab", 3, 1, "ef", "01")
    np.testing.assert_array_equal(pending.contribution, [1.5, -2.0])


def test_a_contribution_that_cannot_be_read_is_named(home: Home) -> None:
    about = {"run": "ab", "round": 3, "attempt": 1, "model_hash": "ef"}  # no charter
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY"):
        (home.path / "pending.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"pending\.npz cannot be read: delete it"):
            home.pending()
    np.savez(home.path / "pending.npz", about=np.array(json.dumps(about)), contribution=np.zeros(2))
    with pytest.raises(UserError, match=r"pending\.npz cannot be read: delete it"):
        home.pending()


def test_secrets_and_contribution_can_be_deleted_twice(home: Home) -> None:
    for _ in range(2):
        home.set_round_secrets(None)
        home.set_pending(None)
    assert (home.round_secrets(), home.pending(), home.chain()) == (None, None, Chain())


def _count(path: Path, rounds: int) -> None:
    home = Home(path)
    for _ in range(rounds):
        with home.locked():
            chain = home.chain()
            time.sleep(0.002)
            home.set_chain(Chain(chain.run, chain.head, chain.round + 1, 0))


def test_two_processes_do_not_mix(home: Home) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(home.path, 15)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert home.chain().round == 29


def test_the_lock_goes_with_an_exception(home: Home) -> None:
    with pytest.raises(RuntimeError), home.locked():
        raise RuntimeError
    with home.locked():
        pass
