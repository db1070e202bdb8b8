"""The server's side that strategies share: an optimizer on a mean gradient, and the running average of adapters.

Only the part of the adapter that was trained in the round moves. All other coordinates keep their value, their moments
and their average, and the optimizer counts its steps for each part by itself.
"""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from ..adapter.part import Part
from .base import Adapter, ServerState, Vector
from .optimizers import Name, Optimizer, optimizer_of

_AVERAGE = "average"


@dataclass(frozen=True)
class ServerSide:
    """Settings of the server's optimizer, the same of every strategy.

    Attributes:
        server_optimizer: "sgd" (with heavy-ball momentum), "adam" (bias-corrected), "adagrad" or "yogi".
        learning_rate: the server's rate on the mean gradient of one unit, or on the mean change.
        momentum: of SGD, and beta1 of the others; in [0, 1).
        beta2: of Adam and Yogi; in [0, 1).
        stability: Adam's epsilon (named so, to keep "epsilon" for privacy), Adagrad's and Yogi's tau.
        averaging: weight of the past in the running average that is published, in [0, 1); 0 publishes the last adapter.

    Raises:
        ValueError: there is no such optimizer, or a number is out of its range.
    """

    server_optimizer: Name
    learning_rate: float
    momentum: float
    beta2: float
    stability: float
    averaging: float

    def __post_init__(self) -> None:
        numbers = (self.learning_rate, self.momentum, self.beta2, self.stability, self.averaging)
        if not all(type(number) in (int, float) and isfinite(number) for number in numbers):
            raise ValueError("a setting of the server is not a number")
        if not self.learning_rate > 0 or not self.stability > 0:
            raise ValueError("learning_rate or stability is not positive")
        if not all(0 <= number < 1 for number in (self.momentum, self.beta2, self.averaging)):
            raise ValueError("momentum, beta2 or averaging is not in [0, 1)")
        _ = self._optimizer

    @property
    def _optimizer(self) -> Optimizer:
        return optimizer_of(self.server_optimizer, self.momentum, self.beta2, self.stability)

    @property
    def turns(self) -> int:
        """How many parts of the adapter are trained by turns."""
        return 1

    def start(self, dimension: int) -> ServerState:
        """The server's state before the first round."""
        moments = {name: np.full(dimension, value) for name, value in self._optimizer.starts.items()}
        if self.averaging:
            moments[_AVERAGE] = np.zeros(dimension)
        return ServerState((0,) * self.turns, moments)

    def stepped(
        self, adapter: Adapter, state: ServerState, part: Part, gradient: Vector
    ) -> tuple[Adapter, ServerState]:
        """The optimizer's step on the coordinates of a part.

        Args:
            adapter: float32 [d]. state: as the last round left it. gradient: float64 [k], of the part.
        """
        optimizer, step = self._optimizer, state.steps[part.turn] + 1
        held = {name: part.of(state.moments[name]) for name in optimizer.starts}
        change, kept = optimizer.change(gradient, held, step)
        trained = (part.of(adapter) - self.learning_rate * change).astype(np.float32)
        moments = {name: part.put(state.moments[name], moment) for name, moment in kept.items()}
        if self.averaging:
            moments[_AVERAGE] = self._averaged(adapter, state, part, trained)
        steps = (*state.steps[: part.turn], step, *state.steps[part.turn + 1 :])
        return part.put(adapter, trained), ServerState(steps, moments)

    def _averaged(self, adapter: Adapter, state: ServerState, part: Part, trained: Adapter) -> Vector:
        """The running average [d]: what was never trained stands in it as it is."""
        before = state.moments[_AVERAGE] if any(state.steps) else adapter.astype(np.float64)
        now = trained.astype(np.float64)
        past = part.of(before) if state.steps[part.turn] else now
        return part.put(before, self.averaging * past + (1 - self.averaging) * now)

    def published(self, adapter: Adapter, state: ServerState) -> Adapter:
        """The adapter that is evaluated and released after a round; the next round trains from the other one."""
        if self.averaging and any(state.steps):
            return state.moments[_AVERAGE].astype(np.float32)
        return adapter
