"""All rounds of a charter: each attempted until it is committed, or burned."""

import logging
import time
from collections.abc import Callable

import numpy as np

from ..charter.charter import Charter
from ..charter.conformity import conforms
from ..errors import UserError
from ..privacy.accounts import OverBudget
from ..secagg.coordinator import RoundSum
from ..secagg.identity import Identity
from ..secagg.plan import Plan
from ..secagg.record import RoundRecord, genesis
from ..secagg.refused import Refused
from ..secagg.wire import peek
from ..strategies.derived import limits_of, schema_of, strategy_of
from ..strategies.model import advanced, first
from . import burned, disputes
from .attendance import Attendance
from .audit_window import AuditWindow
from .confirmation import BEHIND, Confirmation
from .events import DONE, RoundEvent
from .exchange import Exchange
from .measured import Measured, of_sum
from .rounds import Attempt, Attempted
from .run_directory import Attempt as Noted
from .run_directory import Committed, RunDirectory
from .spent import charged

log = logging.getLogger("cotune.server")


# Failed attempts at one round before a person has to look. Those that a dispute ended do not count: they come to an end
# by themselves, see `disputes.require_settled`.
ATTEMPTS = 3


Watch = Callable[[RoundEvent], None]


# With these a member says, before it trains, that the run is over for it.
_DONE = frozenset({OverBudget.code, "plan.spoiled"})


class MembersDoneError(Exception):
    """So many members have no budget for another round, or saw too many spoiled, that too few are left."""


class Run:
    """All rounds of a charter."""

    def __init__(self, charter: Charter, key: Identity, folder: RunDirectory, exchange: Exchange, watch: Watch) -> None:
        """See `build`.

        Raises:
            UserError: the folder holds rounds on other terms than the charter's.
        """
        self._charter, self._key, self._folder = charter, key, folder
        self._exchange, self._watch = exchange, watch
        self._names = [member.name for member in charter.members]
        self._strategy = strategy_of(charter)
        self._schema = schema_of(charter)
        self._window = AuditWindow(folder.path, charter.secagg.audit_rounds)
        self._confirmation = Confirmation(charter, folder, exchange, lambda number: self._before(number).model.encode())
        self._members = Attendance(charter, exchange, folder)
        _require_terms(charter, folder)
        self._started = time.monotonic()

    def finish(self) -> None:
        """Run every round that is not committed yet.

        Edge cases: where so many members say that they have no budget left that too few remain, the run ends with the
        rounds that it has. When it is started again it asks anew.

        Raises:
            UserError: a round could not be completed, with every member's answer; or too many rounds were burned.
        """
        self._window.forget(self._folder.recorded())
        while (number := len(self._folder.committed())) < self._charter.rounds:
            self._started = time.monotonic()
            try:
                self._finish_round(number, self._folder.last() or self._genesis())
            except MembersDoneError as end:
                log.warning("the run ends after %d of %d rounds: %s", number, self._charter.rounds, end)
                break
        if not self._folder.recorded():
            raise UserError(
                f"all {self._charter.rounds} rounds were burned: there is nothing to release",
                "read the log, settle it with the members, and start a new run or agree on a new charter",
            )
        self._publish_last()

    def _finish_round(self, number: int, before: Committed) -> None:
        """Attempt a round until it is committed, or burned: by an attempt here, or before this server was killed."""
        failures = 0
        while not burned.asked_to_sign(self._folder.attempts(number)):
            if failures == ATTEMPTS:
                said = disputes.describe(self._charter, self._folder.complaints(number))
                raise UserError(
                    f"round {number + 1}: {ATTEMPTS} attempts failed{f' ({said})' if said else ''}",
                    "read the log for each member's answer, then start again to continue",
                )
            refusal = self._try(number, before)
            if refusal is None:
                return
            failures += refusal.code != disputes.DISPUTED
        self._burn(number, before)

    def _genesis(self) -> Committed:
        """The state before the first round."""
        model = first(self._charter, self._strategy)
        head = genesis(self._folder.run_id, self._charter.roster())
        return Committed(-1, model.adapter, model.state, head.hex(), (), Measured(), b"")

    def _before(self, number: int) -> Committed:
        """The state that a committed round started from."""
        return self._folder.load(number - 1) if number else self._genesis()

    def _try(self, number: int, before: Committed) -> Refused | None:
        """One attempt; None where the round was committed, else why not."""
        self._members.gather()
        self._confirm(number)
        complaints = self._folder.complaints(number)
        withheld = {index for noted in self._folder.attempts() for index in noted.withheld}
        self._members.leave_out(number, complaints, withheld)
        attempt_number = 1 + max((noted.attempt for noted in self._folder.attempts(number)), default=-1)
        self._folder.note(Noted(number, attempt_number, signing=False))
        taking_part = self._taking_part()
        attempt = Attempt(
            self._charter,
            self._key,
            self._exchange,
            {node: index for node, index in self._members.nodes.items() if index in taking_part},
            withheld,
            lambda phase, members: self._tell(number, phase, before, members),
        )
        plan = attempt.plan(
            self._strategy, before.model, self._folder.run_id, number, attempt_number, bytes.fromhex(before.head)
        )
        try:
            total = attempt.run(
                plan,
                limits_of(self._charter, self._strategy, self._schema, number),
                self._window,
                complaints,
                lambda: self._folder.note(Noted(number, attempt_number, signing=True)),
            )
        except UserError:
            self._note_end(number, attempt_number, attempt.seen)
            raise
        except Refused as refusal:
            self._forget_behind(attempt.seen)
            answers = ", ".join(f"{self._names[index]} {code}" for index, code in sorted(attempt.seen.refused.items()))
            numbers = (number + 1, attempt_number + 1)
            log.error("round %d attempt %d failed: %s; refusals: %s", *numbers, refusal, answers or "none")
            self._note_end(number, attempt_number, attempt.seen, refusal)
            self._raise_if_final(number, attempt.seen)
            return refusal
        self._forget_behind(attempt.seen)
        self._commit(number, before, total, attempt.seen)
        self._confirmation.ask(self._members.nodes, attempt.seen.trained)
        return None

    def _forget_behind(self, seen: Attempted) -> None:
        """Who lacks the model after all is brought up to it before the next attempt, also where this one failed."""
        for index, code in seen.declined.items():
            if code == BEHIND:
                self._confirmation.forget(index)

    def _confirm(self, number: int) -> None:
        """Bring everybody who is online to the last round, and end the run where too few go on from it."""
        refused = self._confirmation.ask(self._members.nodes, self._members.here)
        if len(self._taking_part()) < self._charter.secagg.min_survivors:
            answers = ", ".join(f"{self._names[index]}: {code}" for index, code in sorted(refused.items()))
            raise UserError(
                f"round {number + 1}: too few members go on from the last sum ({answers or 'no answer'})",
                "each member's own log says why",
            )

    def _taking_part(self) -> set[int]:
        return self._confirmation.confirmed(self._members.here - set(self._members.left_out))

    def _note_end(self, number: int, attempt: int, seen: Attempted, refusal: Refused | None = None) -> None:
        """Write down that an attempt failed, who trained in it, complained or withheld something, what was refused."""
        complaints = tuple(message.hex() for _, message in sorted(seen.complaints.items()))
        code, named = ("", None) if refusal is None else (refusal.code, refusal.member)
        withheld = tuple(sorted(seen.withheld))
        told = (seen.trained, complaints, code, named, seen.sent, withheld)
        found = (seen.verdict.convicted, seen.verdict.disputes, seen.verdict.silent)
        self._folder.note(Noted(number, attempt, False, *told, *found))

    def _raise_if_final(self, number: int, seen: Attempted) -> None:
        """Members that refuse will refuse again: say so at once where too few others are left."""
        final = {index for index, code in seen.refused.items() if code != BEHIND}
        if not self._members.enough_without(final):
            answers = ", ".join(f"{self._names[index]}: {code}" for index, code in sorted(seen.refused.items()))
            # What a member says later in a round is no reason to stop there: its survivors may have signed.
            done = seen.refused == seen.declined and set(seen.declined.values()) <= _DONE
            if done and self._folder.recorded() and not burned.asked_to_sign(self._folder.attempts(number)):
                raise MembersDoneError(answers)
            raise UserError(
                f"round {number + 1}: too few members agree ({answers})", "each member's own log says why it refused"
            )

    def _commit(self, number: int, before: Committed, total: RoundSum, seen: Attempted) -> None:
        """Apply the sum, check that it moved the adapter, and make the round durable."""
        names = tuple(self._names[index] for index in total.survivors)
        self._tell(number, "apply", before, total.survivors)
        length = self._strategy.trained(self._schema, number).size
        model = advanced(self._charter, self._strategy, before.model, total.values, total.survivors, number)
        if np.array_equal(model.adapter, before.adapter):
            raise UserError(
                f"round {number + 1}: the sum left the adapter unmoved",
                "raise the learning rate; the round before is kept",
            )
        measured = self._measured(number, before, total, seen, length)
        done = Committed(number, model.adapter, model.state, total.head.hex(), names, measured, total.record)
        self._window.keep(number, total.words)
        self._folder.commit(done)
        self._window.forget(self._folder.recorded())
        self._tell(number, DONE, done, total.survivors)

    def _measured(self, number: int, before: Committed, total: RoundSum, seen: Attempted, length: int) -> Measured:
        """What the round showed."""
        terms = self._charter.privacy
        times = charged(self._folder.attempts(number), seen.trained, len(self._names), terms.shares is not None)
        by_name = {self._names[index]: count for index, count in times.items()}
        spent = before.measured.charged(terms, self._strategy.steps_per_round, by_name)
        return of_sum(spent, terms, total, length, seen.bytes_up, time.monotonic() - self._started)

    def _burn(self, number: int, before: Committed) -> None:
        """Survivors may have signed and nothing was committed: go on without this round.

        Raises:
            UserError: too many rounds of the run were burned.
        """
        noted = self._folder.attempts(number)
        said = ", ".join(attempt.refused for attempt in burned.refusals(noted))
        log.warning("round %d is burned: its survivors were asked to sign (%s)", number + 1, said or "interrupted")
        self._folder.commit(burned.burned(self._charter, self._strategy.steps_per_round, number, before, noted))
        self._window.forget(self._folder.recorded())
        self._members.judge()
        burned.stop_if_spoiled(self._charter, self._folder)

    def _publish_last(self) -> None:
        """Bring whoever is online to the last round, so that its transcript ends where the server's does.

        A member that is away loses nothing: every round is committed, and the records stay here.
        """
        self._members.call()
        self._confirmation.ask(self._members.nodes, set(self._members.nodes.values()))

    def _tell(self, number: int, phase: str, state: Committed, members: tuple[int, ...]) -> None:
        added, shown = state.measured, state.measured if phase == DONE else Measured()
        self._watch(
            RoundEvent(
                number + 1,
                self._charter.rounds,
                phase,
                loss=shown.loss,
                clipped=shown.clipped,
                units=shown.units,
                epsilon=dict(added.epsilon),
                bytes_up=added.bytes_up,
                survivors=tuple(self._names[index] for index in members),
                seconds=time.monotonic() - self._started,
                left_out=tuple(self._names[index] for index in self._members.left_out),
            )
        )


def _require_terms(charter: Charter, folder: RunDirectory) -> None:
    """A run that another version began under other hashes must not go on: its transcript would hold for nobody."""
    for number in folder.recorded()[:1]:
        try:
            record = RoundRecord.decode(peek(folder.load(number).record)[0])
            known = conforms(charter, Plan.open(record.plan, charter.roster()))
        except Refused:
            known = False
        if not known:
            raise UserError(
                f"{folder.path}: its rounds were not run on this charter's terms, perhaps by another version of cotune",
                "continue with the version that began the run, or start afresh",
            )
