"""SignSGD on the server: step by the sign of the noised mean gradient (Bernstein et al. 2018)."""

from dataclasses import dataclass, replace

import numpy as np
from cotune.strategies.dp_fedsgd import DPFedSGD


@dataclass(frozen=True)
class SignSGD(DPFedSGD):
    """One noised gradient a round, as DP-FedSGD; every number moves by `learning_rate` times `decay` to the rounds."""

    server_optimizer: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.0
    beta2: float = 0.99
    stability: float = 1e-8
    averaging: float = 0.7
    decay: float = 0.95

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.decay <= 1:
            raise ValueError("decay is not in (0, 1]")

    def apply(self, adapter, state, part, total, nominal_batch, survivors):
        # Powers differ between machines in last bits, and all members must get the same ones: multiply.
        rate = self.learning_rate
        for _ in range(state.steps[part.turn]):
            rate *= self.decay
        return replace(self, learning_rate=rate).stepped(adapter, state, part, np.sign(total))
