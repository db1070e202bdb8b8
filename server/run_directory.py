"""The coordinator's run on disk: what was committed, so that a killed server continues with the round after it.

    run.json          run id, charter digest
    uploads/          masked uploads of the last rounds, see `audit_window`
    rounds/0007/      one folder a committed round, written beside and renamed:
        adapter.npy   the adapter after the round, float32 [d]
        state.npz     the server optimizer's state
        record.bin    the signed round record (absent where the round was burned)
        round.json    number, transcript head, survivors, measured values
    attempts.jsonl    every attempt before it starts and every survivors' phase before it is asked for

A round whose survivors' phase had begun when the server died is burned: the organizations may have signed, and will
not sign for it again. Its privacy is spent, and the run goes on with the round after it.
"""

import io
import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..atomic import put_folder, replace_bytes, sync_folder, write_bytes
from ..errors import UserError
from ..strategies.base import Adapter, ServerState
from ..strategies.model import Model
from ..verify.kept import RECORD, numbered
from .measured import Measured


@dataclass(frozen=True)
class Committed:
    """A round as it was committed.

    Attributes:
        number: of the round, from 0.
        adapter: after the round, float32 [d].
        state: the server optimizer's.
        head: the transcript's head, 32 bytes as hex.
        survivors: names of the organizations in the sum; empty where the round was burned.
        measured: what it showed.
        record: the signed round record; empty where the round was burned.
    """

    number: int
    adapter: Adapter
    state: ServerState
    head: str
    survivors: tuple[str, ...]
    measured: Measured
    record: bytes

    @property
    def model(self) -> Model:
        """What the next round starts from."""
        return Model(self.adapter, self.state)


class RunDirectory:
    """The folder of one run of one charter."""

    def __init__(self, path: Path, charter_digest: str) -> None:
        """Open or create it.

        Raises:
            UserError: if the folder holds a run of another charter.
        """
        self.path = path
        self._rounds = path / "rounds"
        self._rounds.mkdir(parents=True, exist_ok=True)
        file = path / "run.json"
        if file.exists():
            known = json.loads(file.read_text())
            if known["charter"] != charter_digest:
                raise UserError(f"{path}: holds a run of another charter", "choose another folder or start afresh")
            self.run_id = bytes.fromhex(known["run"])
        else:
            self.run_id = secrets.token_bytes(16)
            content = json.dumps({"run": self.run_id.hex(), "charter": charter_digest})
            write_bytes(file, content.encode())

    def committed(self) -> list[int]:
        """The numbers of the committed rounds, ascending."""
        return numbered(self._rounds)

    def recorded(self) -> list[int]:
        """The numbers of the committed rounds that have a record: all but the burned ones."""
        return [number for number in self.committed() if (self._rounds / f"{number:04d}" / RECORD).exists()]

    def last(self) -> Committed | None:
        """The last committed round, or None before the first."""
        numbers = self.committed()
        return self.load(numbers[-1]) if numbers else None

    def load(self, number: int) -> Committed:
        """A committed round."""
        folder = self._rounds / f"{number:04d}"
        about = json.loads((folder / "round.json").read_text())
        with np.load(folder / "state.npz", allow_pickle=False) as arrays:
            moments = {name: arrays[name] for name in arrays.files}
        record = folder / RECORD
        return Committed(
            number=number,
            adapter=np.load(folder / "adapter.npy", allow_pickle=False),
            state=ServerState(tuple(about["steps"]), moments),
            head=about["head"],
            survivors=tuple(about["survivors"]),
            measured=Measured(**about["measured"]),
            record=record.read_bytes() if record.exists() else b"",
        )

    def commit(self, done: Committed) -> None:
        """Make a round durable: after a crash it is there whole, or not at all."""
        beside = self._rounds / f".{done.number:04d}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        arrays = io.BytesIO()
        np.savez(arrays, **done.state.moments)  # type: ignore[arg-type]
        adapter = io.BytesIO()
        np.save(adapter, done.adapter)
        about = {
            "number": done.number,
            "head": done.head,
            "survivors": done.survivors,
            "steps": done.state.steps,
            "measured": asdict(done.measured),
        }
        contents = {
            "state.npz": arrays.getvalue(),
            "adapter.npy": adapter.getvalue(),
            "round.json": json.dumps(about).encode(),
            RECORD: done.record,
        }
        for name, content in contents.items():
            if content:
                replace_bytes(beside / name, content, 0o644)
        put_folder(beside, self._rounds / f"{done.number:04d}")

    def records(self, after: int, last: int | None = None) -> tuple[bytes, ...]:
        """The round records after round `after` (-1: all), up to `last`, oldest first; burned rounds have none."""
        wanted = (number for number in self.recorded() if after < number and (last is None or number <= last))
        return tuple((self._rounds / f"{number:04d}" / RECORD).read_bytes() for number in wanted)

    def note(self, attempt: "Attempt") -> None:
        """Write down an attempt, or that its survivors' phase begins, before it does."""
        path = self.path / "attempts.jsonl"
        new = not path.exists()
        with path.open("a") as file:
            # The newline in front ends a line that a crash cut short.
            file.write("\n" + json.dumps(asdict(attempt)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self.path)

    def attempts(self, round_number: int | None = None) -> list["Attempt"]:
        """What was noted of a round, or of all rounds.

        A line that a crash cut short was never acted upon, and is passed over.

        Raises:
            UserError: a whole line is no note of this version.
        """
        file = self.path / "attempts.jsonl"
        noted: list[Attempt] = []
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                about = json.loads(line)
            except ValueError:
                continue
            try:
                noted.append(Attempt(**about))
            except TypeError:
                raise UserError(
                    f"{file}: a note that this version does not know", "continue with the version that wrote it"
                ) from None
        return [
            replace(
                attempt,
                trained=None if attempt.trained is None else tuple(attempt.trained),
                complaints=tuple(attempt.complaints),
                withheld=tuple(attempt.withheld),
                convicted=tuple(attempt.convicted),
                disputes=tuple((one, other) for one, other in attempt.disputes),
                silent=tuple(attempt.silent),
            )
            for attempt in noted
            if round_number in (None, attempt.round)
        ]

    def complaints(self, round_number: int) -> tuple[bytes, ...]:
        """The COMPLAINT messages of a round's failed attempts."""
        return tuple(
            bytes.fromhex(message) for attempt in self.attempts(round_number) for message in attempt.complaints
        )


@dataclass(frozen=True)
class Attempt:
    """One attempt at a round, noted when it starts, when its survivors are asked to sign, and when it failed.

    Attributes:
        signing: its survivors are about to be asked to sign.
        trained: of an attempt that failed: indices of the members that trained; None in the other notes.
        sent: of an attempt that failed: whether uploads were asked for, so that vectors may have left.
        complaints: of an attempt that failed: the signed COMPLAINT messages of its members, hex.
        refused: of an attempt that the protocol refused: the code of the refusal.
        named: of such an attempt: index of the member that the refusal names, if it names one.
        convicted, disputes, silent: of an attempt whose sum did not decode: what the opened piece says, see
            `secagg.opening.Verdict`.
        withheld: of an attempt that failed: indices of the members that had complained before, and did not answer to
            its end.
    """

    round: int
    attempt: int
    signing: bool
    trained: tuple[int, ...] | None = None
    complaints: tuple[str, ...] = ()
    refused: str = ""
    named: int | None = None
    sent: bool = True
    withheld: tuple[int, ...] = ()
    convicted: tuple[int, ...] = ()
    disputes: tuple[tuple[int, int], ...] = ()
    silent: tuple[int, ...] = ()
