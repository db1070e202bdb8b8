"""An organization on a machine of its own that may stop at any event, a server with three peers, and what left."""

import copy
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.secagg.coordinator import Coordinator, RoundSum
from cotune.secagg.identity import HybridIdentity, Identity
from cotune.secagg.organization import Organization
from cotune.secagg.plan import Plan
from cotune.secagg.refused import Refused
from cotune.secagg.state import Phase, State
from cotune.secagg.suites import CLASSIC, HYBRID

KEPT = ("left", "backups", "heard", "uploaded", "sent", "_life")
HERE = Path(__file__).parent


def _beside(name: str) -> ModuleType:
    """A module of this folder; pytest imports each file by itself."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lifetimes, utterances = _beside("lifetimes"), _beside("utterances")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What falls between two writes hardly depends on the suite; the larger one takes a minute, so it is slow."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if item.path.is_relative_to(HERE) and parameters.get("suite") is HYBRID:
            item.add_marker(pytest.mark.slow)


class Machine:
    """Organization 0 on its own disk: each message is handled by a new process."""

    def __init__(self, program: Any, folder: Path, life: dict[str, Any]) -> None:
        self.program, self.home, self._life = program, folder / "home", life
        self.home.mkdir(mode=0o700, parents=True)
        self.left = utterances.Left(life["roster"], self.home / "journal")
        self.events = 0
        self.disk = lifetimes.Disk(self.home, folder / "shadow")
        self.uploaded: np.ndarray | None = None
        self.sent: set[bytes] = set()
        self.backups: list[tuple[Phase, bytes, bytes]] = []
        self.heard: list[tuple[int, bytes]] = []

    def call(self, phase: int, message: bytes, at: int | None = None, full: bool = False) -> Any:
        """The reply, an exception that is a refusal, or None where the process died before it replied.

        Args:
            phase: which of `utterances.KINDS`.
            at: the event at which the process is killed, or from which the disk is full.
        """
        life = {"home": self.home, "phase": phase, "message": message, "at": at, "full": full, **self._life}
        if (phase, message) not in self.heard:
            self.heard.append((phase, message))
        answer = self._live(life)
        self._back_up()
        if answer is None:
            return None
        reply, self.events = answer
        if isinstance(reply, Exception):
            return reply
        self.left.add(phase, reply[1], reply[2], reply[0])
        if phase == 2:
            self.uploaded = self.contribution()
            self.sent.add(self.uploaded.tobytes())
        return reply[0]

    def _live(self, life: dict[str, Any]) -> Any:
        lifetimes.send(self.program.stdin, life)
        first = lifetimes.receive(self.program.stdout)
        if first is not None:
            assert lifetimes.receive(self.program.stdout) is None
            if isinstance(first[0], RuntimeError):
                raise first[0]
        return first

    def keep(self) -> None:
        """Remember disk and history, for `rewind`."""
        shutil.copytree(self.home, self.home.parent / "kept")
        self._kept = copy.deepcopy({name: getattr(self, name) for name in KEPT})

    def rewind(self) -> None:
        """Go back to what was kept."""
        shutil.rmtree(self.home)
        shutil.copytree(self.home.parent / "kept", self.home)
        self.disk.settle()
        self.__dict__.update(copy.deepcopy(self._kept))

    def power_cut(self) -> None:
        """What was not durable is gone."""
        self.disk.cut()

    def _back_up(self) -> None:
        secrets, pending = self.home / "round.bin", self.home / "pending.npz"
        if secrets.exists() and pending.exists():
            dump = secrets.read_bytes()
            if all(dump != known for _, known, _ in self.backups):
                self.backups.append((State.decode(dump).phase, dump, pending.read_bytes()))

    def replay(self) -> None:
        """Put every old state back, with its contribution, and say again everything that was ever said to it."""
        for phase, dump, pending in list(self.backups):
            for step, message in list(self.heard):
                if step == phase:
                    (self.home / "round.bin").write_bytes(dump)
                    (self.home / "pending.npz").write_bytes(pending)
                    self.call(step, message)
        for name in ("round.bin", "pending.npz"):
            (self.home / name).unlink(missing_ok=True)

    def expect(self, **facts: object) -> None:
        """Change what the organization knows without the server."""
        self.know(expected=replace(self._life["expected"], **facts))

    def know(self, **facts: object) -> None:
        """Change what comes with every message."""
        self._life = {**self._life, **facts}

    def contribution(self) -> np.ndarray:
        with np.load(self.home / "pending.npz") as arrays:
            return arrays["contribution"]


class Forgetful:
    """The journal of a peer that signs whatever it is asked to."""

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None: ...

    def survived(self, run: bytes, round: int) -> bool:
        return False


class Table:
    """The server's side of one attempt, and organizations 1 to 3, who do whatever they are asked."""

    def __init__(self, federation: Any, plan: Plan, **expected: object) -> None:
        self.federation, self.plan = federation, plan
        self.coordinator = Coordinator(federation.roster, plan, federation.coordinator_key)
        self.answers: list[dict[int, Any]] = []
        self.dumps: list[dict[int, bytes]] = []
        self.phase, self.bundle = 0, self.coordinator.plan_message
        self.facts = federation.expected(prev_head=plan.prev_head)
        self.result: RoundSum | None = None

    def message(self, index: int = 0) -> bytes:
        """What an organization gets in this phase."""
        return self.bundle[index] if isinstance(self.bundle, dict) else self.bundle

    def close(self, reply: Any, gone: int | None = None) -> bool:
        """Take the reply of organization 0 (None for none) and of its peers; on to the next phase.

        Args:
            gone: a peer whose message the server drops.

        Returns:
            Whether the reply of organization 0 counts.

        Raises:
            Refused: too few are left.
        """
        replies: dict[int, Any] = {} if reply is None or isinstance(reply, Exception) else {0: reply}
        peers = {}
        for index in (1, 2, 3):
            if self.phase == 0 or (index in self.dumps[-1] and self._counts(index)):
                peers[index] = self._peer(index)
                replies[index] = self._ask(peers[index], index)
        self.answers.append(replies)
        self.dumps.append({index: peer.dump() for index, peer in peers.items()})
        return self._take({index: message for index, message in replies.items() if index != gone})

    def _counts(self, index: int) -> bool:
        return not isinstance(self.bundle, dict) or index in self.bundle

    def _peer(self, index: int) -> Organization:
        federation = self.federation
        journal = Forgetful()
        if self.phase == 0:
            return Organization.begin(
                federation.roster, index, federation.keys[index], self.message(), self.facts, journal
            )
        return Organization.load(self.dumps[-1][index], federation.roster, federation.keys[index], journal)

    def _ask(self, peer: Organization, index: int) -> Any:
        if self.phase == 0:
            return peer.advert
        if self.phase == 2:
            return peer.mask(self.message(index), self.federation.vectors[index])
        return (peer.share, None, peer.survive, peer.unmask)[self.phase - 1](self.message(index))

    def _take(self, replies: dict[int, Any]) -> bool:
        server = self.coordinator
        adds = (server.add_advert, server.add_shares, server.add_upload, server.add_survival, server.add_reveal)
        closes = (server.close_adverts, server.close_shares, server.close_uploads, server.close_survival, server.result)
        counted = {
            index: adds[self.phase](index, *(reply if isinstance(reply, tuple) else (reply,)))
            for index, reply in replies.items()
        }
        assert all(held for index, held in counted.items() if index), server.rejections
        closed = closes[self.phase]()
        self.phase += 1
        if self.phase == 5:
            self.result = closed
        else:
            self.bundle = closed
        return counted.get(0, False)

    def finish(self, machine: Machine, reply: Any) -> None:
        """The rest of the attempt with an organization that lives on; the sum is right or `Refused` says why not."""
        counted = self.close(reply)
        while self.phase < 5:
            counted = self.close(machine.call(self.phase, self.message()) if counted else None)
        total = sum(self.federation.vectors[i] if i else machine.uploaded for i in self.result.survivors)
        steps = self.plan.encoding.steps()[0] * len(self.result.survivors)
        np.testing.assert_allclose(self.result.values, total, atol=steps, rtol=0)

    def other(self) -> "Table":
        """Another view of the same attempt: the last phase closed without organization 3, or another plan."""
        if self.phase == 0:
            return Table(self.federation, replace(self.plan, deadline=self.plan.deadline + 1))
        return self.twin(without=3)

    def twin(self, without: int | None = None) -> "Table":
        """The same state again, the last phase without somebody."""
        twin = Table(self.federation, self.plan)
        for phase in range(self.phase):
            gone = without if phase == self.phase - 1 else None
            twin._take({index: reply for index, reply in self.answers[phase].items() if index != gone})
            twin.answers.append(self.answers[phase])
            twin.dumps.append({index: dump for index, dump in self.dumps[phase].items() if index != gone})
        return twin


# Where every kill would take many minutes, the slow tests take one in so many; `make crash` takes them all.
SAMPLE = 1 if os.environ.get("COTUNE_EVERY_CRASH") == "1" else 5


def lives_of(
    here: Machine, server: Table, phase: int, full: bool = False, stride: int = 1
) -> Iterator[tuple[Machine, Table, Any]]:
    """(machine, table, reply) with the life that handles `phase` ended at its first, second, ... event.

    Ends that leave the same files, written and durable, are given once. A `stride` above 1 skips events.
    """
    for before in range(phase):
        assert server.close(here.call(before, server.message()))
    here.keep()
    at, last, seen = 0, 1, set()
    while at < last:
        at += stride
        here.rewind()
        reply = here.call(phase, server.message(), at=at, full=full)
        last = at + 1 if reply is None or isinstance(reply, UserError) else here.events
        end = (reply is None, here.disk.outline())
        if end not in seen:
            seen.add(end)
            yield here, server.twin(), reply
    assert at > (5 if full else 15), "the events were not counted"


@pytest.fixture(scope="session")
def program() -> Iterator[Callable[[str], Any]]:
    """program(file): the process that forks the lives of an organization; one for each program."""
    started: dict[str, subprocess.Popen[bytes]] = {}

    def start(file: str) -> Any:
        if file not in started:
            started[file] = subprocess.Popen(
                [sys.executable, str(HERE / file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        return started[file]

    yield start
    for process in started.values():
        process.stdin.close()
        assert process.wait(30) == 0


def secrets_of(identity: Identity) -> tuple[bytes, ...]:
    halves = (identity.curve, identity.lattice) if isinstance(identity, HybridIdentity) else (identity,)
    return tuple(half.private_bytes_raw() for half in halves)


@pytest.fixture(scope="session")
def four(federation: Callable[..., Any]) -> Any:
    """Keys, roster and plans of four organizations, of which three are enough."""
    return federation(4, dimension=7)


@pytest.fixture
def on_a_disk(program: Callable[[str], Any]) -> Callable[[str, Path, dict[str, Any]], Machine]:
    """on_a_disk(file, folder, life): an organization with an empty disk; see `lifetimes` for what a life needs."""
    return lambda file, folder, life: Machine(program(file), folder, life)


@pytest.fixture
def lives(on_a_disk: Callable[..., Machine], four: Any, tmp_path: Path) -> Callable[..., Any]:
    """lives(phase, full=False): see `lives_of`, in the first attempt at round 1; every event in the classic suite."""
    life = {
        "roster": four.roster,
        "identity": secrets_of(four.keys[0]),
        "expected": four.expected(),
        "refusals": (Refused, UserError, LookupError),
    }

    def build(phase: int, full: bool = False) -> Any:
        machine = on_a_disk("organization_process.py", tmp_path / "machine", life)
        return lives_of(machine, Table(four, four.plan(round=1)), phase, full, 1 if four.suite is CLASSIC else SAMPLE)

    return build


@pytest.fixture(scope="session")
def ends() -> Callable[..., Any]:
    """ends(machine, table, phase, full, every): see `lives_of`; where not every event, a sample."""
    return lambda machine, table, phase, full, every: lives_of(machine, table, phase, full, 1 if every else SAMPLE)


@pytest.fixture(scope="session")
def table() -> type[Table]:
    """table(federation, plan): the server's side of an attempt."""
    return Table
