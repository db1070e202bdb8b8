"""FFA-LoRA: the matrices A stay at their random first value, the matrices B are trained.

"Improving LoRA in Privacy-preserving Federated Learning" (Sun et al. 2024). The product B A is then linear in what is
trained: the mean over organizations is exact, and noise on B enters the product once. What is sent is B alone. It is
DP-FedSGD otherwise, where the paper takes local DP-SGD steps: one private gradient a round, clipped and noised over B.
"""

from dataclasses import dataclass

from ..adapter.part import Part, side
from ..adapter.schema import AdapterSchema
from .dp_fedsgd import DPFedSGD


@dataclass(frozen=True)
class FFALoRA(DPFedSGD):
    """One gradient of B a round. Its settings are those of `ServerSide`."""

    def trained(self, schema: AdapterSchema, round_number: int) -> Part:
        return side(schema, "B")
