"""DP-FedSGD: every organization sends one clipped, noised gradient a round; the server takes the optimizer's step.

With secure aggregation this is DP-SGD (Abadi et al. 2016, Algorithm 1) on the union of the data without a trusted
center. All gradients are taken at the common adapter, so the mean of the LoRA factors' gradients is exact: there is no
product of means in place of a mean of products. What it costs is traffic: one upload a step. The server's optimizer
(`optimizers`) sees only noised sums, so whatever it does is post-processing, and so is the running average of the
adapters that is published: it cancels part of the last steps' noise (De et al. 2022, section 3.4).
"""

from dataclasses import dataclass
from typing import ClassVar

from ..adapter.part import Part, whole
from ..adapter.schema import AdapterSchema
from ..privacy.sampling import Randomness
from ..privacy.terms import PrivacyTerms
from .base import Adapter, PrivateTrainer, ServerState, Vector, step_reach
from .server_side import ServerSide


@dataclass(frozen=True)
class DPFedSGD(ServerSide):
    """One gradient a round, a server optimizer on the mean. Its settings are those of `ServerSide`."""

    one_noised_gradient: ClassVar[bool] = True

    @property
    def steps_per_round(self) -> int:
        return 1

    def trained(self, schema: AdapterSchema, round_number: int) -> Part:
        return whole(schema)

    def reach(self, terms: PrivacyTerms, nominal_batch: float, sigmas: float) -> float:
        return step_reach(terms, nominal_batch, sigmas)

    def norms(self, terms: PrivacyTerms, units: float, nominal_batch: float) -> tuple[float, float]:
        return terms.max_grad_norm * units, terms.noise_std

    def local(
        self,
        trainer: PrivateTrainer,
        adapter: Adapter,
        part: Part,
        terms: PrivacyTerms,
        nominal_batch: float,
        randomness: Randomness,
    ) -> Vector:
        return trainer.private_sum(adapter, terms, randomness, part)

    def apply(
        self, adapter: Adapter, state: ServerState, part: Part, total: Vector, nominal_batch: float, survivors: int
    ) -> tuple[Adapter, ServerState]:
        return self.stepped(adapter, state, part, total / nominal_batch)
