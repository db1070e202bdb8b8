"""The consortium's model from round to round, computed alike by the coordinator and by every member.

A member takes no adapter on trust: the first follows from the charter's seed, each next one from the opened sum by the
charter's strategy, and the hash of what came out stands in the next plan. Both ends call `first` and `advanced`.

The arithmetic is float64 addition, multiplication, division and square roots, element by element: IEEE 754 fixes
their bits, so machines agree. A strategy must keep to these: sums over coordinates and powers
differ between machines.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from ..adapter.schema import initial
from ..charter import charter as charters
from ..charter.charter import Charter
from ..errors import UserError
from .base import Adapter, ServerState, Strategy, Vector
from .derived import nominal_batch, schema_of

_STEP_BYTES = 8


@dataclass(frozen=True, eq=False)
class Model:
    """What is agreed between two rounds.

    Attributes:
        adapter: float32 [d], where the next round's gradients are taken.
        state: the server optimizer's.
    """

    adapter: Adapter
    state: ServerState

    def encode(self) -> bytes:
        """Steps as 8 bytes each, adapter as little-endian float32, moments by name as little-endian float64."""
        moments = (np.ascontiguousarray(moment, dtype="<f8") for _, moment in sorted(self.state.moments.items()))
        adapter = np.ascontiguousarray(self.adapter, dtype="<f4")
        steps = (step.to_bytes(_STEP_BYTES, "big") for step in self.state.steps)
        return b"".join((*steps, *(array.tobytes() for array in (adapter, *moments))))

    @classmethod
    def decode(cls, content: bytes, charter: Charter, strategy: Strategy) -> "Model":
        """The inverse of `encode`, for foreign bytes.

        Raises:
            ValueError: they are not as long as the charter's model, or hold a number that is not finite.
        """
        dimension = schema_of(charter).dimension
        names, head = sorted(strategy.start(dimension).moments), strategy.turns * _STEP_BYTES
        if len(content) != encoded_bytes(charter, strategy):
            raise ValueError(f"a model of {len(content)} bytes")
        steps = tuple(int.from_bytes(content[at : at + _STEP_BYTES], "big") for at in range(0, head, _STEP_BYTES))
        adapter = np.frombuffer(content, "<f4", dimension, head).astype(np.float32)
        moments = np.frombuffer(content, "<f8", -1, head + 4 * dimension).astype(np.float64)
        if not (np.isfinite(adapter).all() and np.isfinite(moments).all()):
            raise ValueError("a model with numbers that are not finite")
        found = dict(zip(names, moments.reshape(len(names), dimension), strict=True))
        if max(steps) > max(charter.rounds, charter.personal_steps):
            raise ValueError("a model of more rounds than there are")
        return cls(adapter, ServerState(steps, found))


def encoded_bytes(charter: Charter, strategy: Strategy) -> int:
    """How long `Model.encode` of this charter's models is."""
    dimension = schema_of(charter).dimension
    return strategy.turns * _STEP_BYTES + dimension * (4 + 8 * len(strategy.start(dimension).moments))


def model_hash(charter: Charter, model: Model) -> bytes:
    """32 bytes for all that a contribution and the next model follow from: base, tokenizer, adapter, optimizer."""
    terms = charter.model
    return charters.model_hash(terms.base_digest, terms.tokenizer_digest, hashlib.sha256(model.encode()).hexdigest())


def first(charter: Charter, strategy: Strategy) -> Model:
    """The model before the first round, from the charter's seed."""
    schema = schema_of(charter)
    return Model(initial(schema, charter.model.initial_seed), strategy.start(schema.dimension))


def advanced(
    charter: Charter, strategy: Strategy, model: Model, total: Vector, survivors: tuple[int, ...], round_number: int
) -> Model:
    """The model after a round.

    Args:
        model: before it. total: float64 [k + metrics + extra], the decoded sum, of the k coordinates trained.
        survivors: roster indices of those in the sum. round_number: from 0.

    Raises:
        UserError: the step leaves numbers that are not finite.
    """
    part = strategy.trained(schema_of(charter), round_number)
    # Rounded once, whatever the order: Python's own sum differs between versions.
    batch = math.fsum(nominal_batch(charter, charter.members[index].name) for index in survivors)
    with np.errstate(over="ignore", invalid="ignore"):
        adapter, state = strategy.apply(model.adapter, model.state, part, total[: part.size], batch, len(survivors))
    # As they come back from disk or a message: a step must not depend on which of them it starts from.
    moments: dict[str, Vector] = {name: moment.astype(np.float64) for name, moment in state.moments.items()}
    if not (np.isfinite(adapter).all() and all(np.isfinite(moment).all() for moment in moments.values())):
        raise UserError(
            f"round {round_number + 1}: the step leaves numbers that are not finite", "lower the learning rate"
        )
    return Model(adapter, ServerState(state.steps, moments))
