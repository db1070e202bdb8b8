"""After a round: every member gets the record and the sum, computes the next model itself, and checks what it chooses.

Nobody is told an adapter. A member that missed rounds also gets the model before the last one, which it holds against
that round's record. Until a member has confirmed the last round it takes no part in the next.
"""

import logging
from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from ..charter.charter import Charter
from ..charter.messages import PIECES, RECORD, read_numbers
from ..errors import UserError
from ..secagg import merkle
from ..secagg.evidence import false_sum
from ..secagg.plan import Plan
from ..secagg.record import RoundRecord, Verified, verify
from ..secagg.refused import Refused
from ..secagg.spot_checks import encode_pieces, pieces_for
from ..secagg.wire import peek
from ..verify.kept import SUM, kept_rounds, kept_words
from .exchange import Exchange, Outgoing, Reply
from .run_directory import RunDirectory

log = logging.getLogger("cotune.server")
BEHIND, UNCHECKED = "record.behind", "record.unchecked"
Kept = tuple[NDArray[np.uint64], list[tuple[bytes, ...]]]


class Confirmation:
    """Who holds the model of which round.

    Args:
        charter: of the run.
        folder: of the run.
        exchange: how to reach nodes.
        before: number of a recorded round -> the encoded model before it.
    """

    def __init__(
        self, charter: Charter, folder: RunDirectory, exchange: Exchange, before: Callable[[int], bytes]
    ) -> None:
        self._charter, self._folder, self._exchange, self._before = charter, folder, exchange, before
        self._confirmed: dict[int, int] = {}

    def ask(self, nodes: Mapping[int, int], members: Collection[int]) -> dict[int, str]:
        """Bring members to the last recorded round.

        Args:
            nodes: Flower node id -> index. members: whom to ask, of those; who has confirmed is not asked again.

        Returns:
            Index -> code, of those that refuse. Who does not answer is not among them.

        Raises:
            UserError: a member proved that the sum that was signed is false, or the uploads are gone.
        """
        recorded = self._folder.recorded()
        if not recorded:
            return {}
        node_of = {index: node for node, index in nodes.items()}
        behind = [index for index in members if self._confirmed.get(index) != recorded[-1] and index in node_of]
        refused = self._bring(node_of, behind, recorded)
        unchecked = [index for index, code in refused.items() if code == UNCHECKED]
        again = self._go_back(node_of, unchecked, recorded)
        refused = {index: code for index, code in refused.items() if index not in again}
        refused |= self._bring(node_of, again, recorded)
        for index, code in sorted(refused.items()):
            log.warning("round %d: %s does not go on from it: %s", recorded[-1] + 1, self._name(index), code)
        return refused

    def _go_back(self, node_of: Mapping[int, int], waiting: Collection[int], recorded: list[int]) -> list[int]:
        """Show those who asked for pieces of an earlier round and never got them; who can go on now.

        Which round it is only they know: the newest whose uploads are kept comes first.
        """
        kept, gone_on = kept_rounds(self._folder.path), list[int]()
        for count in range(len(recorded) - 1, 0, -1):
            if recorded[count - 1] not in kept or not waiting:
                break
            self._bring(node_of, waiting, recorded[:count])
            gone_on += [index for index in waiting if self._confirmed.get(index) == recorded[count - 1]]
            waiting = [index for index in waiting if index not in gone_on]
        return gone_on

    def _bring(self, node_of: Mapping[int, int], behind: Collection[int], recorded: list[int]) -> dict[int, str]:
        """Bring members to the last of some recorded rounds; who refuses, and how."""
        if not behind:
            return {}
        record = self._folder.load(recorded[-1]).record
        chosen, refused = self._choices(node_of, behind, recorded)
        return refused | self._show(node_of, chosen, record, self._verified(record), recorded[-1])

    def confirmed(self, members: Collection[int]) -> set[int]:
        """Those of some members that stand where the run does."""
        recorded = self._folder.recorded()
        return {index for index in members if not recorded or self._confirmed.get(index) == recorded[-1]}

    def forget(self, index: int) -> None:
        """A member says that it does not hold what it had confirmed: it is given everything again."""
        self._confirmed.pop(index, None)

    def _choices(
        self, node_of: Mapping[int, int], behind: Collection[int], recorded: list[int]
    ) -> tuple[dict[int, tuple[int, ...]], dict[int, str]]:
        """Which pieces each wants to see, and who refuses; who lacks the model is asked again, with it."""
        before = recorded[-2] if len(recorded) > 1 else -1
        lacking = {index for index in behind if before >= 0 and self._confirmed.get(index) != before}
        chosen, refused = self._hand_out(node_of, behind, recorded[-1], lacking)
        again = {index for index, code in refused.items() if code == BEHIND and index not in lacking}
        for index in again:
            self._confirmed.pop(index, None)
        more, still = self._hand_out(node_of, again, recorded[-1], again)
        return chosen | more, {index: code for index, code in refused.items() if index not in again} | still

    def _hand_out(
        self, node_of: Mapping[int, int], to: Collection[int], last: int, lacking: Collection[int]
    ) -> tuple[dict[int, tuple[int, ...]], dict[int, str]]:
        """Records and sum, and to those that lack it the model before."""
        words = self._words(last, SUM)
        pieces = merkle.pieces(len(words))
        agreed = self._charter.secagg
        most = pieces_for(agreed.check_fraction, agreed.check_probability, pieces)
        chosen: dict[int, tuple[int, ...]] = {}
        refused: dict[int, str] = {}

        def receive(index: int, reply: Reply) -> None:
            if reply.refused:
                refused[index] = reply.refused
                return
            try:
                numbers = read_numbers(reply.body, pieces)
            except ValueError:
                return
            if len(numbers) <= most:
                chosen[index] = numbers

        outgoing = {
            index: Outgoing(
                b"",
                words,
                self._folder.records(self._confirmed.get(index, -1), last),
                self._before(last) if index in lacking else b"",
            )
            for index in to
        }
        self._exchange_with(node_of, RECORD, outgoing, receive)
        return chosen, refused

    def _show(
        self,
        node_of: Mapping[int, int],
        chosen: Mapping[int, tuple[int, ...]],
        record: bytes,
        verified: Verified,
        last: int,
    ) -> dict[int, str]:
        """Hand out the pieces, and note who is content."""
        kept = {index: self._kept(verified, index) for index in verified.survivors}
        refused: dict[int, str] = {}

        def receive(index: int, reply: Reply) -> None:
            if reply.refused:
                refused[index] = reply.refused
            elif reply.body:
                self._accused(index, reply.body)
                refused[index] = "evidence.none"
            else:
                self._confirmed[index] = last

        outgoing = {}
        for index, numbers in chosen.items():
            body, words = encode_pieces(numbers, kept)
            outgoing[index] = Outgoing(body, words, (record,))
        self._exchange_with(node_of, PIECES, outgoing, receive)
        return refused

    def _accused(self, index: int, proof: bytes) -> None:
        """End the run where a member's proof holds."""
        try:
            found = false_sum(proof, self._charter.roster())
        except Refused as no:
            log.warning("%s accuses this coordinator without a proof: %s", self._name(index), no)
            return
        raise UserError(
            f"round {found.plan.round + 1}: {self._name(index)} proved that this coordinator signed a false sum",
            "look for what changed its files or its program; the run is over for everybody who sees the proof",
        )

    def _exchange_with(
        self,
        node_of: Mapping[int, int],
        kind: str,
        outgoing: Mapping[int, Outgoing],
        receive: Callable[[int, Reply], None],
    ) -> None:
        index_of = {node_of[index]: index for index in outgoing}
        messages = {node_of[index]: content for index, content in outgoing.items()}
        seconds = self._charter.secagg.deadline_seconds
        self._exchange.run(kind, messages, "record", seconds, lambda node, reply: receive(index_of[node], reply))

    def _verified(self, record: bytes) -> Verified:
        """What this coordinator's own record says."""
        roster = self._charter.roster()
        plan = Plan.open(RoundRecord.decode(peek(record)[0]).plan, roster)
        return verify(record, roster, plan.run, plan.prev_head)

    def _kept(self, verified: Verified, index: int) -> Kept:
        words = self._words(verified.plan.round, index)
        return words, merkle.paths(merkle.piece_leaves(words, verified.ctx2, index))

    def _words(self, number: int, name: int | str) -> NDArray[np.uint64]:
        words = kept_words(self._folder.path, number, name)
        if words is None or not len(words):
            raise UserError(
                f"{self._folder.path}: what round {number + 1} was made of is gone",
                "restore uploads/ of the run directory: no member goes on from a sum that it cannot check",
            )
        return words

    def _name(self, index: int) -> str:
        return self._charter.members[index].name
