"""What a round showed: noised sums and public facts, with what has added up since the run began."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..privacy.spending import epsilons
from ..privacy.terms import METRICS, PrivacyTerms, decode_metrics
from ..secagg.coordinator import RoundSum


@dataclass(frozen=True)
class Measured:
    """Of one round; the defaults are those before the first.

    Attributes:
        loss: mean training loss decoded from the noised sum, nats a token; None where noise left too few units to tell.
        clipped: noised fraction of units whose gradient was clipped; None as above.
        units: noised number of units of all survivors together.
        saturated: fraction of coordinates that the encoding cut, the survivors' mean.
        seconds: how long the round took.
        bytes_up, contributions: since the run began.
        trained: rounds whose budget each member has spent, by name. epsilon: what that makes.
    """

    loss: float | None = None
    clipped: float | None = None
    units: float = 0.0
    saturated: float = 0.0
    seconds: float = 0.0
    bytes_up: int = 0
    contributions: int = 0
    trained: Mapping[str, int] = field(default_factory=dict)
    epsilon: Mapping[str, float] = field(default_factory=dict)

    def charged(self, terms: PrivacyTerms, steps: int, times: Mapping[str, int]) -> "Measured":
        """What has added up, after members were charged for so many more rounds; nothing else.

        Args:
            steps: of one round. times: by name.
        """
        names = [*self.trained, *(name for name in times if name not in self.trained)]
        trained = {name: self.trained.get(name, 0) + times.get(name, 0) for name in names}
        return Measured(
            bytes_up=self.bytes_up,
            contributions=self.contributions,
            trained=trained,
            epsilon=epsilons(terms, steps, trained),
        )


def of_sum(
    before: Measured, terms: PrivacyTerms, total: RoundSum, coordinates: int, bytes_up: int, seconds: float
) -> Measured:
    """A round that was summed.

    Args:
        before: what has added up, this round's charges included. total: what was opened.
        coordinates: of the adapter that were trained. bytes_up: of this round's attempt.
    """
    metrics = decode_metrics(total.values[coordinates : coordinates + len(METRICS)], terms)
    return replace(
        before,
        loss=_finite(metrics["loss"]),
        clipped=_finite(metrics["clipped"]),
        units=metrics["units"],
        saturated=float(total.values[-1]) / len(total.survivors),
        seconds=seconds,
        bytes_up=before.bytes_up + bytes_up,
        contributions=before.contributions + len(total.survivors),
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
