"""What the coordinator tells whoever watches it: one small value a phase, made of sums and public facts only."""

from dataclasses import dataclass
from typing import Final

PHASES: Final = (
    "plan",
    "train",
    "advertise",
    "share",
    "mask",
    "survive",
    "unmask",
    "open",
    "apply",
    "evaluate",
    "done",
)
"""The phases of a round in their order. An event of phase `done` closes the round."""

DONE: Final = "done"


@dataclass(frozen=True)
class RoundEvent:
    """Where a run stands. Nothing in it is one organization's number, but for epsilon, which is public by the charter.

    Attributes:
        round: the round under way, from 1.
        rounds: how many rounds the charter plans.
        phase: one of `PHASES`.
        loss: mean training loss decoded from the noised sum, in nats a token; None before the sum is known, NaN where
            noise left too few units to tell.
        clipped: noised fraction of units whose gradient was clipped; None before the sum is known, NaN as
            above.
        units: noised number of units of all survivors together; 0 before the sum is known.
        epsilon: epsilon spent by each organization, this round included.
        bytes_up: bytes that all organizations together have uploaded since the run began.
        survivors: names of the organizations that still take part in this round.
        seconds: wall time since this round began; in the `done` event how long the round took.
        left_out: names of the organizations that this attempt leaves out, after complaints in an earlier one.
    """

    round: int
    rounds: int
    phase: str
    loss: float | None
    clipped: float | None
    units: float
    epsilon: dict[str, float]
    bytes_up: int
    survivors: tuple[str, ...]
    seconds: float
    left_out: tuple[str, ...] = ()
