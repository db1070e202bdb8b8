"""RoLoRA: the matrices B and A are trained by turns, one of the two in each round.

"Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA" (Chen et al. 2025). With one factor fixed the
product B A is linear in the other, so that the mean of factors is the factor of the mean of products also after local
steps, and noise on a factor enters the product once, never as noise times noise; unlike FFA-LoRA both factors learn.
Rounds count from one here: B in odd rounds, since the gradient of A is zero while B is, A in even ones. What is sent is
the half that is trained. It is DP-FedSGD otherwise: one private gradient a round, clipped and noised over the half that
is trained, where the paper takes local steps without privacy. So a round costs what one of DP-FedSGD costs. The
optimizer's moments and step counts are kept for each half.
"""

from dataclasses import dataclass
from typing import Literal

from ..adapter.part import Part, side
from ..adapter.schema import AdapterSchema
from .dp_fedsgd import DPFedSGD

_SIDES: tuple[Literal["B", "A"], ...] = ("B", "A")


@dataclass(frozen=True)
class RoLoRA(DPFedSGD):
    """One gradient of B or of A a round. Its settings are those of `ServerSide`."""

    @property
    def turns(self) -> int:
        return len(_SIDES)

    def trained(self, schema: AdapterSchema, round_number: int) -> Part:
        turn = round_number % len(_SIDES)
        return side(schema, _SIDES[turn], turn)
