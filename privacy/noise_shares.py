"""Noise that is shared among organizations: each adds a part, and the sum carries what the guarantee asks for.

Against a coordinator that colludes with c of n organizations, while at most d contributions miss from an opened sum,
h = n - max(c, 1) - d honest organizations other than the observer are in it. Each adds Gaussian noise of multiplier
sigma / sqrt(h), so that their sum carries at least sigma. One is taken off for c = 0 too: every member knows its own
noise. This is distributed noise as in Kairouz, Liu and Steinke 2021. It holds for one noised gradient a round only:
after several local steps a sum is not a signal plus one Gaussian.

The guarantee is about the sum. So an organization must not send one noised vector into two sums, and nothing may be cut
off its vector before it is added: the functions at the end bound what has to fit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UserError
from .accounting import epsilon, rounded
from .history import segment
from .skellam import Grid

# The chance that a number in any vector of a run does not fit, e^epsilon included: as far below any delta in use as
# the tail that the Gaussian sampler leaves out.
_UNFIT = 1e-15
# The standard deviation of one share, in steps of the encoding. Contributions are rounded each by itself; from
# 3 steps on the sum of rounded Gaussians is a rounding of their sum, up to e^(-9 pi^2) at each integer.
LEAST_STEPS = 3.0
ONE_STEP = "after several local steps a sum is not a signal plus one Gaussian"


@dataclass(frozen=True)
class NoiseShares:
    """Who shares the noise.

    Attributes:
        organizations: n. colluders: c, organizations that may side with the coordinator. dropouts: d, contributions
            that may miss from a sum; with fewer than n - d of them no sum is opened.

    Raises:
        UserError: nobody would be left to add noise.
    """

    organizations: int
    colluders: int
    dropouts: int

    def __post_init__(self) -> None:
        if self.organizations < 3 or self.colluders < 0 or self.dropouts < 0:
            raise UserError(
                f"noise shared by {self.organizations} organizations, {self.colluders} colluders and "
                f"{self.dropouts} dropouts",
                "name three organizations or more, and no negative number",
            )
        if self.honest < 1:
            raise UserError(
                f"privacy.colluders={self.colluders} and privacy.dropouts={self.dropouts} leave none of "
                f"{self.organizations} organizations to add noise",
                "lower them, or set privacy.trust=nobody",
            )

    @property
    def honest(self) -> int:
        """h: honest organizations beside the observer whose noise is in every sum that is opened."""
        return self.organizations - max(self.colluders, 1) - self.dropouts

    @property
    def survivors(self) -> int:
        """n - d: the fewest contributions in a sum that is opened."""
        return self.organizations - self.dropouts

    def own(self, multiplier: float) -> float:
        """The noise multiplier of one organization's share, where the honest sum is to carry `multiplier`."""
        return multiplier / math.sqrt(self.honest)

    def everybody(self, multiplier: float) -> float:
        """The noise multiplier of a whole sum, of which an outsider knows no share: that of n - d shares."""
        return multiplier * math.sqrt(self.survivors / self.honest)


@dataclass(frozen=True)
class Exposures:
    """Epsilon of one history against three adversaries, at one delta.

    Attributes:
        colluding: the coordinator together with up to c organizations, at most d contributions missing.
        outsider: who sees the model and all sums, and knows nobody's noise.
        alone: the coordinator together with all other organizations; only the own share counts.
    """

    colluding: float
    outsider: float
    alone: float

    def lines(self, shares: NoiseShares) -> tuple[str, str, str]:
        """The three, in words, each with its adversary."""
        others = "1 other organization" if max(shares.colluders, 1) == 1 else f"{shares.colluders} other organizations"
        return (
            f"epsilon {rounded(self.colluding)} against the coordinator with up to {others}, "
            f"{shares.survivors} or more of {shares.organizations} contributions in each sum",
            f"epsilon {rounded(self.outsider)} against an outsider who sees the model and every sum",
            f"epsilon {rounded(self.alone)} against the coordinator with all other organizations",
        )


def exposures(
    shares: NoiseShares, multiplier: float, sample_rate: float, steps: int, delta: float, grid: Grid | None = None
) -> Exposures:
    """What `steps` steps cost against each adversary.

    Args:
        shares: who shares the noise.
        multiplier: sigma, that of the honest sum; what a charter states.
        sample_rate: as in `accounting`.
        steps: as there.
        delta: as there.
        grid: of Skellam noise.
    """

    def spent(sigma: float) -> float:
        return epsilon([segment(sigma, sample_rate, steps, grid)], delta)

    return Exposures(spent(multiplier), spent(shares.everybody(multiplier)), spent(shares.own(multiplier)))


def most_colluders(organizations: int, threshold: int) -> int:
    """The largest coalition with the coordinator against which secure aggregation still opens nothing but one sum.

    Fewer than the threshold, and too few to sign two sets of survivors: 2 t > n + c.
    """
    return min(threshold - 1, 2 * threshold - organizations - 1)


def fitting_sigmas(numbers: float, epsilon: float, std: float = math.inf) -> float:
    """How many standard deviations hold every one of `numbers` draws of noise, but for a chance of 1e-15 e^-epsilon.

    P[|z| > t] <= e^(-t^2 / 2) for Gaussian draws, added up over all draws of a run. Skellam draws have a wider tail:
    by Bernstein's inequality P[X >= x] <= e^(-x^2 / (2 mu + 2 x / 3)).

    Args:
        std: the root of mu, in steps of the grid; infinite for Gaussian draws.
    """
    rarity = math.log(2 * numbers / _UNFIT) + epsilon
    third = rarity / (3 * std)
    return third + math.sqrt(third**2 + 2 * rarity)


def fitting_units(batch: float, steps: float, epsilon: float) -> float:
    """How many units no Poisson sample of an expected `batch` exceeds in `steps` steps, but for the same chance.

    Bernstein's inequality: P[N >= B + x] <= e^(-x^2 / (2 B + 2 x / 3)).
    """
    rarity = math.log(2 * steps / _UNFIT) + epsilon
    return batch + rarity / 3 + math.sqrt(rarity**2 / 9 + 2 * batch * rarity)


def require_fine(share_std: float, step_for: Callable[[int], float], lane_bits: int, most: int) -> None:
    """Refuse an encoding whose steps are coarser than a share of the noise bears.

    Args:
        share_std: standard deviation of one organization's noise.
        step_for: lane bits -> the coarsest step of the encoding. lane_bits: as agreed. most: the widest lane.

    Raises:
        UserError: it names the lane width that is enough.
    """
    if share_std >= LEAST_STEPS * step_for(lane_bits):
        return
    enough = [bits for bits in range(lane_bits + 1, most + 1) if share_std >= LEAST_STEPS * step_for(bits)]
    raise UserError(
        f"secagg.lane_bits={lane_bits}: one share of the noise is less than {LEAST_STEPS:g} steps of the encoding",
        f"set secagg.lane_bits={enough[0]} or more" if enough else "lower the batch, or set privacy.trust=nobody",
    )
