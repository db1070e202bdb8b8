"""The Flower ServerApp of a coordinator: rounds of a charter, one after the other, each committed before the next.

It holds the charter, the coordinator's key, and sums. Rounds that were committed stay committed; a killed server
continues with the round after them. A round whose survivors were asked to sign and that was not committed is burned:
its privacy is spent, nobody signs for it again, and the model stays as it was.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ..charter.charter import Charter
from ..charter.messages import RECORD
from ..errors import UserError
from ..privacy.terms import METRICS, decode_metrics
from ..secagg.coordinator import RoundSum
from ..secagg.identity import Identity
from ..secagg.record import genesis
from ..secagg.refused import Refused
from ..strategies.agreed import nominal_batch, schema_of, strategy_of
from ..training.schema import initial
from . import disputes, roll_call
from .audit_window import AuditWindow
from .events import RoundEvent
from .exchange import Exchange, Outgoing, Reply
from .rounds import Attempt, Attempted
from .run_directory import Attempt as Noted
from .run_directory import Committed, RunDirectory
from .spent import charged, epsilons

log = logging.getLogger("cotune.server")
# Failed attempts at one round before a person has to look.
ATTEMPTS = 3
Watch = Callable[[RoundEvent], None]
# The values of a run whose first round was burned.
_NOTHING_SHOWN: dict[str, Any] = {
    "loss": None,
    "clipped": None,
    "units": 0.0,
    "saturated": 0.0,
    "bytes_up": 0,
    "contributions": 0,
    "seconds": 0.0,
}


def build(
    charter: Charter,
    key: Identity,
    folder: Path,
    watch: Watch,
    stop: threading.Event,
    observe: Callable[[str, Reply], None] = lambda kind, reply: None,
) -> ServerApp:
    """The app.

    Args:
        charter: verified. key: the coordinator's. folder: the run directory.
        watch: gets a `RoundEvent` at each phase, on the app's thread.
        stop: ends the run at the next poll; `exchange.Interrupted` is raised.
        observe: sees every reply that was accepted (tests).
    """
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        Run(charter, key, RunDirectory(folder, charter.digest()), Exchange(grid, stop, observe), watch).finish()

    return app


class Run:
    """All rounds of a charter."""

    def __init__(self, charter: Charter, key: Identity, folder: RunDirectory, exchange: Exchange, watch: Watch) -> None:
        self._charter, self._key, self._folder = charter, key, folder
        self._exchange, self._watch = exchange, watch
        self._names = [member.name for member in charter.members]
        self._strategy = strategy_of(charter)
        self._schema = schema_of(charter)
        self._window = AuditWindow(folder.path, charter.secagg.audit_rounds)
        self._nodes: dict[int, int] = {}
        self._left_out: tuple[int, ...] = ()
        self._acknowledged = dict.fromkeys(range(len(self._names)), -1)
        self._started = time.monotonic()

    def finish(self) -> None:
        """Run every round that is not committed yet.

        Raises:
            UserError: a round could not be completed, with every member's answer.
        """
        self._window.forget(self._folder.recorded())
        while (number := len(self._folder.committed())) < self._charter.rounds:
            self._started = time.monotonic()
            before = self._folder.last() or self._genesis()
            failures = 0
            while any(noted.signing for noted in self._folder.attempts(number)) or not self._try(number, before):
                if any(noted.signing for noted in self._folder.attempts(number)):
                    self._burn(number, before)
                    break
                failures += 1
                if failures == ATTEMPTS:
                    said = disputes.describe(self._charter, self._folder.complaints(number))
                    raise UserError(
                        f"round {number + 1}: {ATTEMPTS} attempts failed{f' ({said})' if said else ''}",
                        "read the log for each member's answer, then start again to continue",
                    )
        self._publish_last()

    def _genesis(self) -> Committed:
        """The state before the first round."""
        adapter = initial(self._schema, self._charter.model.initial_seed)
        head = genesis(self._folder.run_id, self._charter.roster())
        state = self._strategy.start(self._strategy.dimension(self._schema, 0))
        return Committed(-1, adapter, state, head.hex(), (), {}, b"")

    def _try(self, number: int, before: Committed) -> bool:
        """One attempt; True where the round was committed."""
        self._gather()
        complaints = self._folder.complaints(number)
        self._leave_out(number, complaints)
        attempt_number = 1 + max((noted.attempt for noted in self._folder.attempts(number)), default=-1)
        self._folder.note(Noted(number, attempt_number, signing=False))
        attempt = Attempt(
            self._charter,
            self._key,
            self._exchange,
            {node: index for node, index in self._nodes.items() if index not in self._left_out},
            lambda phase, members: self._tell(number, phase, before, members),
        )
        plan = attempt.plan(
            self._strategy, before.adapter, self._folder.run_id, number, attempt_number, bytes.fromhex(before.head)
        )
        try:
            total = attempt.run(
                plan,
                before.adapter,
                lambda index: self._folder.records(self._acknowledged[index]),
                self._window,
                complaints,
                lambda: self._folder.note(Noted(number, attempt_number, signing=True)),
            )
        except UserError:
            self._note_end(number, attempt_number, attempt.seen)
            raise
        except Refused as refusal:
            answers = ", ".join(f"{self._names[index]} {code}" for index, code in sorted(attempt.seen.refused.items()))
            log.error(
                "round %d attempt %d failed: %s; refusals: %s", number, attempt_number, refusal, answers or "none"
            )
            self._note_end(number, attempt_number, attempt.seen)
            self._raise_if_final(number, attempt.seen)
            return False
        for index in attempt.seen.trained:
            self._acknowledged[index] = number - 1
        self._commit(number, before, total, attempt.seen)
        return True

    def _note_end(self, number: int, attempt: int, seen: Attempted) -> None:
        """Write down that an attempt failed, who trained in it and who complained."""
        complaints = tuple(message.hex() for _, message in sorted(seen.complaints.items()))
        self._folder.note(Noted(number, attempt, signing=False, trained=seen.trained, complaints=complaints))

    def _leave_out(self, number: int, complaints: tuple[bytes, ...]) -> None:
        """Decide whom the next attempt leaves out."""
        self._left_out = disputes.left_out(self._charter, complaints, set(self._nodes.values()))
        if complaints:
            names = ", ".join(self._names[index] for index in self._left_out)
            said = disputes.describe(self._charter, complaints)
            log.warning("round %d: %s; left out: %s", number, said, names or "nobody, too few would remain")

    def _raise_if_final(self, number: int, seen: Attempted) -> None:
        """Members that refuse will refuse again: say so at once where too few others are left."""
        left = len(self._names) - len(seen.refused)
        if left < self._charter.secagg.min_survivors:
            answers = ", ".join(f"{self._names[index]}: {code}" for index, code in sorted(seen.refused.items()))
            raise UserError(
                f"round {number + 1}: too few members agree ({answers})", "each member's own log says why it refused"
            )

    def _call(self) -> None:
        """Wait until enough members are online, or the deadline."""
        seconds = (
            self._charter.secagg.deadline_seconds if len(self._nodes) < self._charter.secagg.min_survivors else 0.0
        )
        self._nodes = roll_call.call(self._charter, self._exchange, self._nodes, seconds)

    def _gather(self) -> None:
        """`_call`, and end the run where too few came."""
        self._call()
        need = self._charter.secagg.min_survivors
        if len(self._nodes) < need:
            missing = [name for index, name in enumerate(self._names) if index not in self._nodes.values()]
            raise UserError(
                f"only {len(self._nodes)} of the {need} members needed are online",
                f"start the nodes of {', '.join(missing)}",
            )

    def _commit(self, number: int, before: Committed, total: RoundSum, seen: Attempted) -> None:
        """Apply the sum, check that it moved the adapter, and make the round durable."""
        names = tuple(self._names[index] for index in total.survivors)
        self._tell(number, "apply", before, total.survivors)
        batch = sum(nominal_batch(self._charter, name) for name in names)
        length = self._strategy.dimension(self._schema, number)
        adapter, state = self._strategy.apply(before.adapter, before.state, total.values[:length], batch, len(names))
        if not np.isfinite(adapter).all() or np.array_equal(adapter, before.adapter):
            raise UserError(
                f"round {number + 1}: the sum left the adapter unmoved or not finite",
                "lower the learning rate; the round before is kept",
            )
        values = self._values(number, before, total, seen, length)
        done = Committed(number, adapter, state, total.head.hex(), names, values, total.record)
        self._window.keep(number, total.words)
        self._folder.commit(done)
        self._window.forget(self._folder.recorded())
        self._tell(number, "done", done, total.survivors)

    def _values(self, number: int, before: Committed, total: RoundSum, seen: Attempted, length: int) -> dict[str, Any]:
        """What the round showed: sums and public facts."""
        terms = self._charter.privacy
        metrics = decode_metrics(total.values[length : length + len(METRICS)], terms)
        trained: dict[str, int] = dict(before.values.get("trained", {}))  # type: ignore[call-overload]
        shared = terms.shares is not None
        times = charged(self._folder.attempts(number), seen.trained, len(self._names), shared)
        for index, count in times.items():
            trained[self._names[index]] = trained.get(self._names[index], 0) + count
        return {
            "loss": _finite(metrics["loss"]),
            "clipped": _finite(metrics["clipped"]),
            "units": metrics["units"],
            "saturated": float(total.values[-1]) / len(total.survivors),
            "bytes_up": int(before.values.get("bytes_up", 0)) + seen.bytes_up,  # type: ignore[call-overload]
            "contributions": int(before.values.get("contributions", 0)) + len(total.survivors),  # type: ignore[call-overload]
            "trained": trained,
            "epsilon": epsilons(terms, self._strategy.steps_per_round, trained),
            "seconds": time.monotonic() - self._started,
        }

    def _attempted(self, number: int) -> set[int]:
        return {noted.attempt for noted in self._folder.attempts(number)}

    def _burn(self, number: int, before: Committed) -> None:
        """Survivors may have signed and nothing was committed: go on without this round."""
        log.warning("round %d was interrupted while its survivors signed; it is burned", number)
        earlier: dict[str, int] = dict(before.values.get("trained", {}))  # type: ignore[call-overload]
        # Who trained is not known any more: everybody counts, with shared noise for each attempt.
        attempts = 1 if self._charter.privacy.shares is None else len(self._attempted(number))
        trained = {name: earlier.get(name, 0) + attempts for name in self._names}
        values = (
            _NOTHING_SHOWN
            | before.values
            | {"trained": trained, "epsilon": epsilons(self._charter.privacy, self._strategy.steps_per_round, trained)}
        )
        self._folder.commit(Committed(number, before.adapter, before.state, before.head, (), values, b""))
        self._window.forget(self._folder.recorded())

    def _publish_last(self) -> None:
        """Give the last records to whoever is online, so that its transcript ends where the server's does.

        A member that is away loses nothing: every round is committed, and the records stay here.
        """
        self._call()
        outgoing = {
            node: Outgoing(b"", records=self._folder.records(self._acknowledged[index]))
            for node, index in self._nodes.items()
        }
        self._exchange.run(RECORD, outgoing, "record", self._charter.secagg.deadline_seconds, lambda node, reply: None)

    def _tell(self, number: int, phase: str, state: Committed, members: tuple[int, ...]) -> None:
        values: dict[str, Any] = state.values if phase == "done" else {}
        known: dict[str, Any] = state.values
        self._watch(
            RoundEvent(
                round=number + 1,
                rounds=self._charter.rounds,
                phase=phase,
                loss=values.get("loss"),
                clipped=values.get("clipped"),
                units=values.get("units", 0.0),
                epsilon=known.get("epsilon", {}),
                bytes_up=known.get("bytes_up", 0),
                survivors=tuple(self._names[index] for index in members),
                seconds=time.monotonic() - self._started,
                left_out=tuple(self._names[index] for index in self._left_out),
            )
        )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
