"""FedAvg (McMahan et al. 2017) on LoRA factors, as in FedIT: some private steps at home, then the mean of the changes.

Each local step is a DP-SGD step, so the organization's own noise carries the whole guarantee and `steps_per_round` of
them are composed. Less traffic a step than DP-FedSGD, at a price: the mean of the factors A_i and B_i is not the factor
of the mean of the products B_i A_i. At home SGD or AdamW, each with FedProx' pull to the round's adapter (`home_side`);
on the server any optimizer takes the mean change for its gradient, up to the sign (FedOpt, Reddi et al. 2021): SGD with
momentum is FedAvgM (Hsu et al. 2019), with momentum 0 and rate 1 plain FedAvg.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ..adapter.part import Part, whole
from ..adapter.schema import AdapterSchema
from ..privacy.sampling import Randomness
from ..privacy.terms import METRICS, PrivacyTerms
from .base import Adapter, PrivateTrainer, ServerState, Vector, split, step_reach
from .home_side import HomeSide
from .server_side import ServerSide


@dataclass(frozen=True)
class FedAvg(ServerSide):
    """Local steps, then the uniform mean of the changes; the server's settings are those of `ServerSide`.

    Attributes:
        local_steps: private steps an organization takes in a round, 1 to 10,000.
        local_learning_rate: of those steps, on the mean gradient of one unit.
        local_optimizer: "sgd", plain, or "adamw".
        local_beta1, local_beta2, local_stability, local_weight_decay: of AdamW.
        proximal: FedProx' mu, the pull to the round's adapter; 0: none.

    Raises:
        ValueError: a setting is outside its range.
    """

    one_noised_gradient: ClassVar[bool] = False

    local_steps: int
    local_learning_rate: float
    local_optimizer: Literal["sgd", "adamw"]
    local_beta1: float
    local_beta2: float
    local_stability: float
    local_weight_decay: float
    proximal: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._home

    @property
    def _home(self) -> HomeSide:
        return HomeSide(
            optimizer=self.local_optimizer,
            steps=self.local_steps,
            rate=self.local_learning_rate,
            proximal=self.proximal,
            beta1=self.local_beta1,
            beta2=self.local_beta2,
            stability=self.local_stability,
            decay=self.local_weight_decay,
        )

    @property
    def steps_per_round(self) -> int:
        return self.local_steps

    def trained(self, schema: AdapterSchema, round_number: int) -> Part:
        return whole(schema)

    def reach(self, terms: PrivacyTerms, nominal_batch: float, sigmas: float) -> float:
        if self.local_optimizer == "adamw":
            return self._home.farthest
        return self._home.gain * step_reach(terms, nominal_batch, sigmas) / nominal_batch

    def norms(self, terms: PrivacyTerms, units: float, nominal_batch: float) -> tuple[float, float]:
        """AdamW's is a bound on each coordinate, so it is wide: what is sent is mostly some times shorter."""
        if self.local_optimizer == "adamw":
            return 0.0, self._home.farthest
        scale = self._home.gain / nominal_batch
        return scale * terms.max_grad_norm * units, scale * terms.noise_std

    def local(
        self,
        trainer: PrivateTrainer,
        adapter: Adapter,
        part: Part,
        terms: PrivacyTerms,
        nominal_batch: float,
        randomness: Randomness,
    ) -> Vector:
        walk, metrics = self._home.begin(part.of(adapter)), np.zeros(len(METRICS))
        for _ in range(self.local_steps):
            here = part.put(adapter, walk.here)
            gradient, counted = split(trainer.private_sum(here, terms, randomness, part))
            walk.step(gradient / nominal_batch)
            metrics += counted
        return np.concatenate([walk.moved, metrics])

    def apply(
        self, adapter: Adapter, state: ServerState, part: Part, total: Vector, nominal_batch: float, survivors: int
    ) -> tuple[Adapter, ServerState]:
        decayed = self._home.shrunk * part.of(adapter).astype(np.float64)
        return self.stepped(adapter, state, part, decayed - total / survivors)
