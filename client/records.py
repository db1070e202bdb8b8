"""After a round: its record and its sum come in, the model moves, and some pieces of the sum are recomputed."""

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..charter.conformity import conforms
from ..charter.messages import write_numbers
from ..charter.refusal import Refusal
from ..secagg.evidence import FALSE
from ..secagg.plan import Plan
from ..secagg.record import Verified
from ..secagg.refused import Refused
from ..secagg.spot_checks import check_sum
from ..secagg.state import State
from .chains import Chain
from .history import follow, opened
from .node import Node
from .spot_check import check, chosen, convict

log = logging.getLogger("cotune.client")


class Follower(Node):
    """A node that is told what came of a round."""

    def record(self, records: tuple[bytes, ...], words: NDArray[np.uint64], model: bytes) -> bytes:
        """P5: verify the records, take the strategy's step on the last one's sum, and choose what of it to check.

        Args:
            records: RECORD messages since the last that this node followed, oldest first.
            words: the bare sum of the last one. model: encoded, before the last one; empty where it is held here.

        Returns:
            The numbers of the pieces that this node wants to see.

        Raises:
            Refusal: "record.behind": the model is needed too. Others, and Refused: something does not hold.
        """
        chain, newest = self._followed(records)
        run = chain.run
        self.require_honest(run)
        self._require_checked(chain)
        after = self.following.model_at(run, chain.head)
        if after is None:
            try:
                after = self.following.step(newest, words, model)
            except Refused as fault:
                if fault.code in FALSE:
                    convict(self.home, records[-1], newest, fault.piece or 0, {}, words)
                raise
            self.following.keep(run, chain.head, after)
        else:
            check_sum(newest, words)  # the model was computed before; these may be other words
        if chain.checked < chain.verified:
            self.home.set_sum(words.tobytes())
        self.home.set_chain(chain)
        self._forget_round(newest.plan)
        if self.index in newest.cohort.members and self.index not in newest.survivors:
            log.warning("round %d was summed without what this node trained for it", newest.plan.round + 1)
        return write_numbers(chosen(self.home, self.charter.secagg, newest.head, len(words)))

    def _require_checked(self, chain: Chain) -> None:
        """Refuse a further sum while pieces of an earlier one, which were asked for, were never handed out.

        Else a coordinator could pass over who asked for the pieces that are false, and come back with the next sum.

        Raises:
            Refusal: "record.unchecked".
        """
        before = self.home.chain(chain.run)
        if before.checked < before.verified < chain.verified:
            raise Refusal(
                "record.unchecked",
                f"pieces of the sum of round {before.verified + 1} were asked for and never came",
                "tell the other organizations; this node goes on when they come, if they are still kept",
            )

    def check(self, record: bytes, body: bytes, words: NDArray[np.uint64]) -> bytes:
        """After P5: recompute the chosen pieces of the last sum.

        Args:
            record: of that round. body, words: the pieces of every survivor's masked upload.

        Returns:
            Empty, or the proof that the coordinator signed a false sum.
        """
        chain, newest = self._followed((record,))
        if chain.checked == chain.verified:
            return b""
        proof = check(self.home, self.charter.secagg, record, newest, body, words)
        if not proof:
            self.home.set_chain(replace(chain, checked=chain.verified))
            log.info("round %d: the pieces of the sum that were chosen here hold", newest.plan.round + 1)
        self.home.set_sum(None)
        return proof

    def _followed(self, records: tuple[bytes, ...]) -> tuple[Chain, Verified]:
        """The chain after some records of a run, and the last of them; the run is taken up where it is new."""
        if not records:
            raise Refusal("record.none", "no record came", "update the coordinator")
        plans = [opened(record, self.roster)[1] for record in records]
        plan = plans[0]
        if not all(conforms(self.charter, other) for other in plans):
            raise Refusal("record.charter", "the record of a round on other terms", "compare the charters")
        if any(self.journal.opened(plan.run, other.round) for other in plans):
            # Who showed a piece of its own because the sum was none takes no sum of that round afterwards.
            raise Refusal("record.opened", "a piece of this round was opened: it has no sum", "end this run together")
        chain = self.take_up(self.home.chain(plan.run.hex()))
        trained = {number for number, _ in self.journal.attempts(plan.run)}
        chain, newest = follow(chain, records, self.roster, trained)
        if newest is None:
            raise Refusal("record.head", "these records do not end at the head held here", "compare transcripts")
        return chain, newest

    def _forget_round(self, plan: Plan) -> None:
        """A round that has a record is over: what could open a piece of it goes."""
        secrets = self.home.round_secrets()
        if secrets is not None:
            own = Plan.open(State.decode(secrets).plan, self.roster)
            if (own.run, own.round) == (plan.run, plan.round):
                self.home.set_round_secrets(None)
