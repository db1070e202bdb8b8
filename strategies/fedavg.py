"""FedAvg (McMahan et al. 2017) on LoRA factors, as in FedIT: some private steps at home, then the mean of the changes.

Each local step is a DP-SGD step, so the organization's own noise carries the whole guarantee and `steps_per_round` of
them are composed. Less traffic a step than DP-FedSGD, at a price: the mean of the factors A_i and B_i is not the factor
of the mean of the products B_i A_i. The server optimizer is momentum on the mean change (FedAvgM, Hsu et al. 2019).
"""

from dataclasses import dataclass

import numpy as np

from ..privacy.sampling import Randomness
from ..privacy.terms import METRICS, PrivacyTerms
from ..training.schema import AdapterSchema
from .base import Adapter, PrivateTrainer, ServerState, Vector, split, step_reach


@dataclass(frozen=True)
class FedAvg:
    """Local SGD steps, then the uniform mean of the changes.

    Attributes:
        local_steps: private steps an organization takes in a round, at least 1.
        local_learning_rate: of those steps, on the mean gradient of one unit.
        server_learning_rate: factor on the mean change; 1 is plain FedAvg.
        server_momentum: in [0, 1); 0 is plain FedAvg.
    """

    local_steps: int
    local_learning_rate: float
    server_learning_rate: float
    server_momentum: float

    @property
    def steps_per_round(self) -> int:
        return self.local_steps

    def dimension(self, schema: AdapterSchema, round_number: int) -> int:
        return schema.dimension

    def reach(self, terms: PrivacyTerms, nominal_batch: float, sigmas: float) -> float:
        one = step_reach(terms, nominal_batch, sigmas) / max(1.0, nominal_batch)
        return self.local_learning_rate * self.local_steps * one

    def norms(self, terms: PrivacyTerms, units: float, nominal_batch: float) -> tuple[float, float]:
        scale = self.local_learning_rate * self.local_steps / nominal_batch
        return scale * terms.max_grad_norm * units, scale * terms.noise_std

    def local(
        self,
        trainer: PrivateTrainer,
        adapter: Adapter,
        terms: PrivacyTerms,
        nominal_batch: float,
        randomness: Randomness,
    ) -> Vector:
        moved = adapter.astype(np.float64)
        metrics = np.zeros(len(METRICS))
        for _ in range(self.local_steps):
            gradient, counted = split(trainer.private_sum(moved.astype(np.float32), terms, randomness))
            moved -= self.local_learning_rate * gradient / nominal_batch
            metrics += counted
        return np.concatenate([moved - adapter, metrics])

    def start(self, dimension: int) -> ServerState:
        return ServerState(0, {"momentum": np.zeros(dimension)})

    def apply(
        self, adapter: Adapter, state: ServerState, total: Vector, nominal_batch: float, survivors: int
    ) -> tuple[Adapter, ServerState]:
        momentum = self.server_momentum * state.moments["momentum"] + total / survivors
        moved = (adapter + self.server_learning_rate * momentum).astype(np.float32)
        return moved, ServerState(state.step + 1, {"momentum": momentum})

    def published(self, adapter: Adapter, state: ServerState) -> Adapter:
        return adapter
