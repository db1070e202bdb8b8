"""The consortium's model as this node computes it: from the charter's seed, through every sum that was opened.

No adapter is taken on trust. After a round the coordinator hands out the record and the opened sum; the node holds the
sum against the record, takes the strategy's step itself, and keeps what comes out beside the head that it belongs to.
The next plan must name its hash. A node that missed rounds is given the model before the last of them: the adverts in
that round's record, a threshold of them, were signed under a plan with the model's hash, each by a member that had
computed the same.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..charter.charter import Charter
from ..charter.conformity import conforms
from ..charter.refusal import Refusal
from ..secagg.control import CONTROL_WORDS
from ..secagg.limits import check_values
from ..secagg.masking import WORD
from ..secagg.record import Verified, genesis
from ..secagg.roster import Roster
from ..secagg.spot_checks import check_sum
from ..strategies.base import Strategy
from ..strategies.derived import encoding_of, limits_of, schema_of
from ..strategies.model import Model, advanced, first, model_hash
from .chains import Chain
from .home import NodeHome

_RUN_BYTES: Final = 16
_HEAD_BYTES: Final = 32


@dataclass(frozen=True, eq=False)
class Following:
    """Where a node's model comes from.

    Attributes:
        home: whose. charter, roster, strategy: as signed.
    """

    home: NodeHome
    charter: Charter
    roster: Roster
    strategy: Strategy

    def model_at(self, run: str, head: str) -> Model | None:
        """The model at a head of the transcript, None where this node does not hold it."""
        if bytes.fromhex(head) == genesis(bytes.fromhex(run), self.roster):
            return first(self.charter, self.strategy)
        kept, start = self.home.model(), _RUN_BYTES + _HEAD_BYTES
        if kept is None or kept[:start] != bytes.fromhex(run + head):
            return None
        try:
            return Model.decode(kept[start:], self.charter, self.strategy)
        except ValueError:
            return None  # of another version: it is asked for again

    def require_model(self, chain: Chain) -> Model:
        """The model at a chain's head.

        Raises:
            Refusal: "record.behind": this node missed the round that gave it.
        """
        model = self.model_at(chain.run, chain.head)
        if model is None:
            raise Refusal("record.behind", "the model at this head was never computed here", "wait to be caught up")
        return model

    def step(self, verified: Verified, words: NDArray[np.uint64], given: bytes) -> Model:
        """The model after a round, computed from its opened sum.

        Args:
            verified: the round's record. words: the bare sum, uint64 [8 + encoding.words].
            given: the encoded model before the round, for a node that does not hold it; else empty.

        Raises:
            Refusal: "record.charter", "record.behind", "record.model". Refused: the sum is not the recorded one, or
                beyond what honest members can send. UserError: the step leaves numbers that are not finite.
        """
        plan, schema = verified.plan, schema_of(self.charter)
        agreed = encoding_of(self.charter, self.strategy, schema, plan.round)
        if not conforms(self.charter, plan) or plan.encoding != agreed:
            raise Refusal("record.charter", "the record of a round on other terms", "compare the charters")
        before = self._before(plan.run.hex(), plan.prev_head.hex(), given)
        if model_hash(self.charter, before) != plan.model_hash:
            raise Refusal(
                "record.model", "the round was computed from another model than it follows", "tell the others"
            )
        check_sum(verified, words)
        limits = limits_of(self.charter, self.strategy, schema, plan.round)
        total = plan.encoding.decode(words[CONTROL_WORDS:], len(verified.survivors))
        check_values(plan.encoding, total, verified.survivors, limits)
        return advanced(self.charter, self.strategy, before, total, verified.survivors, plan.round)

    def _before(self, run: str, head: str, given: bytes) -> Model:
        held = self.model_at(run, head)
        if held is not None:
            return held
        if not given:
            raise Refusal("record.behind", "the model before this round is not here", "wait to be caught up")
        try:
            return Model.decode(given, self.charter, self.strategy)
        except ValueError:
            raise Refusal("record.model", "not a model of this charter", "update the coordinator") from None

    def keep(self, run: str, head: str, model: Model) -> None:
        """Keep the model at a head; the one before it is replaced."""
        self.home.set_model(bytes.fromhex(run + head) + model.encode())


def words_of(content: bytes) -> NDArray[np.uint64]:
    """A sum as `NodeHome.sum` kept it."""
    return np.frombuffer(content, dtype=WORD)
