"""One attempt at one round, from the plan to the opened sum: five exchanges around the protocol's state machine, and a
sixth where the sum does not decode.

Every reply is handed to `secagg.Coordinator`; the masked uploads and the complaints among them are kept, and nothing
else. Whoever does not answer, or whose message does not hold, is left out; too few end the attempt.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..charter.charter import Charter
from ..charter.messages import OPEN, REVEAL, ROUND, SHARES, SURVIVORS, UPLOAD
from ..secagg.collecting import Step
from ..secagg.coordinator import Coordinator, RoundSum
from ..secagg.identity import Identity
from ..secagg.limits import NormLimits
from ..secagg.opening import Verdict
from ..secagg.pieces import Piece, piece_of
from ..secagg.plan import Plan
from ..secagg.refused import Refused
from ..strategies.base import Strategy
from ..strategies.derived import encoding_of, schema_of
from ..strategies.model import Model, model_hash
from . import disputes
from .audit_window import AuditWindow
from .exchange import Exchange, Outgoing, Reply

log = logging.getLogger("cotune.server")
# An opened sum that is none: some member's upload spoiled it.
_SPOILED = frozenset({"sum.control", "sum.range", "sum.norm"})
Words = NDArray[np.uint64]


@dataclass
class Attempted:
    """What an attempt showed, whether it ended well or not.

    Attributes:
        trained: indices whose advert counted: they have spent this round's budget.
        refused: index -> code of a member that said no.
        declined: those of them that said no to training, before anything was made of the round.
        sent: whether uploads were asked for: before that no vector leaves a member.
        complaints: index -> COMPLAINT message of a member that could not use a box of another.
        withheld: indices of those that had complained in this round, and gave nothing that counts when they were asked.
        bytes_up: bytes of all replies.
        verdict: after a sum that did not decode: what the opened piece says.
    """

    trained: tuple[int, ...] = ()
    refused: dict[int, str] = field(default_factory=dict)
    declined: dict[int, str] = field(default_factory=dict)
    sent: bool = False
    complaints: dict[int, bytes] = field(default_factory=dict)
    withheld: set[int] = field(default_factory=set)
    bytes_up: int = 0
    verdict: Verdict = field(default_factory=lambda: Verdict((), (), ()))


class Attempt:
    """Drives one attempt.

    Args:
        charter: what was signed. key: the coordinator's. exchange: how to reach nodes.
        nodes: Flower node id -> index in the charter.
        withheld: of the run's failed attempts, see `disputes.left_out`.
        phase: called with the name of each phase and the members still in it, before it runs.
    """

    def __init__(
        self,
        charter: Charter,
        key: Identity,
        exchange: Exchange,
        nodes: Mapping[int, int],
        withheld: Collection[int],
        phase: Callable[[str, tuple[int, ...]], None],
    ) -> None:
        self._charter = charter
        self._key = key
        self._exchange = exchange
        self._node_of = {index: node for node, index in nodes.items()}
        self._withheld = withheld
        self._complained: set[int] = set()
        self._phase = phase
        self.seen = Attempted()

    def plan(self, strategy: Strategy, model: Model, run: bytes, number: int, attempt: int, head: bytes) -> Plan:
        """The plan that every member will hold against its charter."""
        charter, roster = self._charter, self._charter.roster()
        return Plan(
            run=run,
            round=number,
            attempt=attempt,
            roster_hash=roster.hash,
            cohort=roster.indices,
            threshold=charter.secagg.threshold,
            min_survivors=charter.secagg.min_survivors,
            model_hash=model_hash(charter, model),
            schema_hash=charter.schema_hash(),
            dp_hash=charter.dp_hash(),
            encoding=encoding_of(charter, strategy, schema_of(charter), number),
            deadline=int(time.time() + charter.secagg.deadline_seconds),
            prev_head=head,
            suite=roster.suite,
        )

    def run(
        self,
        plan: Plan,
        limits: NormLimits,
        window: AuditWindow,
        earlier: tuple[bytes, ...],
        signing: Callable[[], None],
    ) -> RoundSum:
        """The whole attempt.

        Args:
            plan: of this attempt. limits: what honest members can send at most.
            window: gets every upload that counts.
            earlier: COMPLAINT messages of the round's earlier attempts.
            signing: called before the survivors are asked to sign; from then on the round cannot be tried again.

        Returns:
            The sum over the survivors and its record.

        Raises:
            Refused: too few members took part, a complaint asks for another attempt, or the sum does not hold.
            UserError: no room for the uploads.
            Interrupted: the operator stopped the run.
        """
        coordinator = Coordinator(self._charter.roster(), plan, self._key, limits)
        self._complained = disputes.authors(earlier)
        window.begin(plan)
        try:
            return self._steps(coordinator, plan, window, earlier, signing)
        finally:
            for no in coordinator.rejections:
                log.warning("round %d: a message of %s was left out: %s", plan.round + 1, self._name(no.index), no.code)

    def _steps(
        self,
        coordinator: Coordinator,
        plan: Plan,
        window: AuditWindow,
        earlier: tuple[bytes, ...],
        signing: Callable[[], None],
    ) -> RoundSum:
        """The five exchanges, and a sixth where the sum does not decode."""
        everybody = tuple(sorted(self._node_of))
        self._phase("train", everybody)
        offers = dict.fromkeys(everybody, Outgoing(coordinator.plan_message))
        self._ask(ROUND, plan, offers, lambda index, reply: coordinator.add_advert(index, reply.body))
        self.seen.trained, self.seen.declined = coordinator.present(Step.ADVERTS), dict(self.seen.refused)
        adverts = dict.fromkeys(self.seen.trained, Outgoing(coordinator.close_adverts()))
        self._phase("share", self.seen.trained)
        self._ask(SHARES, plan, adverts, lambda index, reply: coordinator.add_shares(index, reply.body))
        inboxes = {index: Outgoing(inbox) for index, inbox in coordinator.close_shares().items()}
        self._phase("mask", tuple(inboxes))
        self.seen.sent = True
        self._ask(
            UPLOAD,
            plan,
            inboxes,
            lambda index, reply: self._add_upload(coordinator, plan, index, reply),
            lambda index, words: window.add(plan.round, index, words),
        )
        complaints = (*earlier, *self.seen.complaints.values())
        present = coordinator.present(Step.UPLOADS)
        disputes.require_settled(self._charter, complaints, everybody, present, self._withheld)
        survivors = Outgoing(coordinator.close_uploads())
        signing()
        members = coordinator.present(Step.UPLOADS)
        self._phase("survive", members)
        asked = dict.fromkeys(members, survivors)
        self._ask(SURVIVORS, plan, asked, lambda index, reply: coordinator.add_survival(index, reply.body))
        asked = dict.fromkeys(members, Outgoing(coordinator.close_survival()))
        self._phase("unmask", members)
        self._ask(REVEAL, plan, asked, lambda index, reply: coordinator.add_reveal(index, reply.body))
        try:
            return coordinator.result()
        except Refused as refusal:
            if refusal.code in _SPOILED:
                self._find_culprits(coordinator, plan, window, members)
            raise

    def _find_culprits(
        self, coordinator: Coordinator, plan: Plan, window: AuditWindow, members: tuple[int, ...]
    ) -> None:
        """Open one piece that does not decode, of each upload alone; who sent what no honest member can is convicted.

        Never where the noise is shared, or there is none: no guarantee holds for one contribution alone.
        """
        if self._charter.privacy.shares is not None or not self._charter.privacy.enabled:
            return
        self._phase("open", members)

        def kept(index: int, number: int) -> Piece:
            return piece_of(window.words(plan.round, index), number, coordinator.context, index)

        try:
            number = coordinator.fault()
            asked = dict.fromkeys(members, Outgoing(coordinator.opening_request(kept)))
        except Refused as refusal:
            log.warning("round %d: no piece can be opened to find who spoiled it: %s", plan.round + 1, refusal)
            return
        self._ask(OPEN, plan, asked, lambda index, reply: coordinator.add_opened(index, reply.body))
        verdict = coordinator.verdict()
        self.seen.verdict = verdict
        log.error(
            "round %d: its sum does not decode; convicted by what was opened of piece %d: %s; disputes: %s; silent: %s",
            plan.round + 1,
            number,
            self._names(verdict.convicted),
            "; ".join(self._names(pair) for pair in verdict.disputes) or "none",
            self._names(verdict.silent),
        )

    def _ask(
        self,
        kind: str,
        plan: Plan,
        outgoing: Mapping[int, Outgoing],
        add: Callable[[int, Reply], bool],
        keep: Callable[[int, Words], None] = lambda index, words: None,
    ) -> None:
        """One exchange with the members in `outgoing`; refusals are kept by code.

        Args:
            add: hands a reply to the protocol, and says whether it counts. What one member sent ends no round: where
                `add` fails unexpectedly, the reply does not count.
            keep: gets the words of a reply that counts.
        """
        index_of = {self._node_of[index]: index for index in outgoing}
        silent = set(outgoing)

        def receive(node: int, reply: Reply) -> None:
            index = index_of[node]
            self.seen.bytes_up += len(reply.body) + (0 if reply.vector is None else reply.vector.nbytes)
            if reply.refused:
                self.seen.refused[index] = reply.refused
                log.warning("round %d: %s refused %s: %s", plan.round + 1, self._name(index), kind, reply.refused)
                return
            try:
                counts = add(index, reply)
            except MemoryError:
                raise
            except Exception:
                log.exception("round %d: what %s sent to %s fails here", plan.round + 1, self._name(index), kind)
                counts = False
            if counts or index in self.seen.complaints:
                silent.discard(index)
            if counts and reply.vector is not None:
                keep(index, reply.vector)

        messages = {self._node_of[index]: content for index, content in outgoing.items()}
        self._exchange.run(
            kind, messages, str(plan.round), self._charter.secagg.deadline_seconds, receive, interruptible=kind == ROUND
        )
        self.seen.withheld |= silent & self._complained

    def _add_upload(self, coordinator: Coordinator, plan: Plan, index: int, reply: Reply) -> bool:
        """What came back in P2: an upload, or a complaint where there is no vector. Whether an upload now counts."""
        if reply.vector is not None:
            again = index in coordinator.present(Step.UPLOADS)
            return coordinator.add_upload(index, reply.body, reply.vector) and not again
        if coordinator.add_complaint(index, reply.body):
            self.seen.complaints[index] = reply.body
            log.warning("round %d: %s", plan.round + 1, disputes.describe(self._charter, [reply.body]))
        return False

    def _names(self, members: Collection[int]) -> str:
        return ", ".join(self._name(index) for index in members) or "nobody"

    def _name(self, index: int) -> str:
        return self._charter.members[index].name
