"""DP-FedSGD: every organization sends one clipped, noised gradient a round; the server takes the optimizer's step.

With secure aggregation this is DP-SGD (Abadi et al. 2016, Algorithm 1) on the union of the data without a trusted
center. All gradients are taken at the common adapter, so the mean of the LoRA factors' gradients is exact: there is no
product of means in place of a mean of products. The server's
optimizer is SGD with momentum or Adam (Kingma and Ba 2015). What it costs is traffic: one upload a
step. The optimizer sees only noised sums, so whatever it does is post-processing, and so is the running average of the
adapters that is published: it cancels part of the last steps' noise (De et al. 2022, section 3.4).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..privacy.sampling import Randomness
from ..privacy.terms import PrivacyTerms
from ..training.schema import AdapterSchema
from .base import Adapter, PrivateTrainer, ServerState, Vector, step_reach


@dataclass(frozen=True)
class DPFedSGD:
    """One gradient a round, a server optimizer on the mean.

    Attributes:
        server_optimizer: "sgd" (with heavy-ball momentum) or "adam" (bias-corrected).
        learning_rate: the server's rate on the mean gradient of one unit.
        momentum: of SGD, and beta1 of Adam; in [0, 1).
        beta2: of Adam; in [0, 1).
        stability: Adam's epsilon (named so, to keep "epsilon" for privacy).
        averaging: weight of the past in the running average that is published, in [0, 1); 0 publishes the last adapter.
    """

    server_optimizer: Literal["sgd", "adam"]
    learning_rate: float
    momentum: float
    beta2: float
    stability: float
    averaging: float

    @property
    def steps_per_round(self) -> int:
        return 1

    def dimension(self, schema: AdapterSchema, round_number: int) -> int:
        return schema.dimension

    def reach(self, terms: PrivacyTerms, nominal_batch: float, sigmas: float) -> float:
        return step_reach(terms, nominal_batch, sigmas)

    def norms(self, terms: PrivacyTerms, units: float, nominal_batch: float) -> tuple[float, float]:
        return terms.max_grad_norm * units, terms.noise_std

    def local(
        self,
        trainer: PrivateTrainer,
        adapter: Adapter,
        terms: PrivacyTerms,
        nominal_batch: float,
        randomness: Randomness,
    ) -> Vector:
        return trainer.private_sum(adapter, terms, randomness)

    def start(self, dimension: int) -> ServerState:
        names = ("momentum", "second", "average") if self.server_optimizer == "adam" else ("momentum", "average")
        return ServerState(0, {name: np.zeros(dimension) for name in names})

    def apply(
        self, adapter: Adapter, state: ServerState, total: Vector, nominal_batch: float, survivors: int
    ) -> tuple[Adapter, ServerState]:
        gradient = total / nominal_batch
        step = state.step + 1
        if self.server_optimizer == "sgd":
            momentum = self.momentum * state.moments["momentum"] + gradient
            change = momentum
            moments = {"momentum": momentum}
        else:
            first = self.momentum * state.moments["momentum"] + (1 - self.momentum) * gradient
            second = self.beta2 * state.moments["second"] + (1 - self.beta2) * gradient**2
            corrected = first / (1 - _power(self.momentum, step))
            change = corrected / (np.sqrt(second / (1 - _power(self.beta2, step))) + self.stability)
            moments = {"momentum": first, "second": second}
        moved = (adapter - self.learning_rate * change).astype(np.float32)
        past = state.moments["average"] if state.step else moved
        moments["average"] = self.averaging * past + (1 - self.averaging) * moved
        return moved, ServerState(step, moments)

    def published(self, adapter: Adapter, state: ServerState) -> Adapter:
        return state.moments["average"].astype(np.float32) if state.step else adapter


def _power(base: float, exponent: int) -> float:
    """base ** exponent by multiplication, whose bits are the same on every machine; those of a library's are not."""
    product = 1.0
    for _ in range(exponent):
        product *= base
    return product
