"""The privacy terms of a run and the private metrics that travel with the gradient.

Everything that leaves an organization is one vector: d gradient coordinates, then one coordinate for each of `METRICS`.
It is noised once, by one mechanism. With C = `max_grad_norm` and a = `metrics_weight`, a unit adds

    (clip_C(gradient), a C min(loss, cap) / cap, a C, a C [its gradient was clipped])

to it, so adding or removing a unit moves the sum by at most S = C sqrt(1 + 3 a^2) in the L2 norm, and every coordinate
gets noise of standard deviation `own_multiplier` * S. The metrics therefore cost no budget of their own. The noise is
Gaussian, or Skellam on a grid of integers (`skellam`).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .history import Segment, segment
from .noise_shares import NoiseShares
from .skellam import LEAST_VARIANCE, MOST_COORDINATES, MOST_VARIANCE, Grid, grid_for

METRICS = ("loss", "units", "clipped")
# Far from what squares of float32 numbers lose at either end, where a norm would come out too small.
_CLIP_RANGE = (1e-9, 1e9)
# Beyond it the metrics are lost in the noise, or the gradient is.
_WEIGHT_RANGE = (1e-6, 1e3)
_LARGEST_EPSILON = 1e6


def sensitivity(max_grad_norm: float, metrics_weight: float) -> float:
    """S = C sqrt(1 + 3 a^2): a clipped gradient, and three metrics of at most a C each."""
    return max_grad_norm * math.sqrt(1.0 + len(METRICS) * metrics_weight**2)


def largest_delta(units: int) -> float:
    """The largest delta that protects a set of this many units: 1 / (10 n)."""
    return 1.0 / (10.0 * units)


def grid_of(max_grad_norm: float, metrics_weight: float, parameters: int) -> Grid:
    """The grid of a run that trains so many parameters, for Skellam noise on gradient and metrics."""
    return grid_for(sensitivity(max_grad_norm, metrics_weight), parameters + len(METRICS))


@dataclass(frozen=True)
class PrivacyTerms:
    """What the members agreed on; the noise multiplier is already calibrated to the whole planned run.

    Attributes:
        enabled: False only in comparisons: then nothing is noised and the other numbers still clip and scale.
        unit: what one privacy unit is, e.g. "patient". Adjacency: all records of one unit added or removed.
        epsilon, delta: the budget of the whole run for each unit; 0 where privacy is disabled.
        noise_multiplier: sigma, the noise's standard deviation over `sensitivity`; 0 where privacy is disabled. Where
            the noise is shared it is that of the sum of the honest shares.
        max_grad_norm: C, the largest L2 norm of one unit's gradient after clipping, 1e-9 to 1e9.
        sample_rate: q, the probability with which each unit independently joins a step.
        records_per_unit: the most records of one unit used in one step.
        loss_cap: losses above it count as it, in nats a token.
        metrics_weight: a, the scale of the metric coordinates relative to C, 1e-6 to 1000.
        trust: "nobody": an organization's own noise carries its whole guarantee, which needs no other. Only who opts in
            writes "honest_majority": the noise is shared, see `noise_shares`.
        organizations, colluders, dropouts: n, c and d of the shares; 0 where nobody is trusted.
        mechanism: "gaussian" noise, or "skellam" noise on integers, whose account is about what is really sent.
        grid_step: g, what one integer stands for, a power of two; 0 with Gaussian noise.
        dimension: the coordinates that the account of integers is about, gradient and metrics; 0 with Gaussian noise.

    Raises:
        UserError: a number is outside its range.
    """

    enabled: bool
    unit: str
    epsilon: float
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    records_per_unit: int
    loss_cap: float
    metrics_weight: float
    trust: Literal["nobody", "honest_majority"] = "nobody"
    organizations: int = 0
    colluders: int = 0
    dropouts: int = 0
    mechanism: Literal["gaussian", "skellam"] = "gaussian"
    grid_step: float = 0.0
    dimension: int = 0

    def __post_init__(self) -> None:
        _require(math.isfinite(self.loss_cap) and self.loss_cap > 0, "loss_cap", self.loss_cap, "a positive number")
        for name, (low, high) in (("max_grad_norm", _CLIP_RANGE), ("metrics_weight", _WEIGHT_RANGE)):
            value = getattr(self, name)
            _require(low <= value <= high, name, value, f"a number in [{low:g}, {high:g}]")
        _require(0 < self.sample_rate <= 1, "sample_rate", self.sample_rate, "a number in (0, 1]")
        _require(self.records_per_unit >= 1, "records_per_unit", self.records_per_unit, "1 or more")
        sigma = self.noise_multiplier
        _require(math.isfinite(sigma) and sigma >= 0, "noise_multiplier", sigma, "a number that is not negative")
        if self.enabled:
            most = f"a positive number, {_LARGEST_EPSILON:g} at most"
            _require(0 < self.epsilon <= _LARGEST_EPSILON, "epsilon", self.epsilon, most)
            _require(0 < self.delta < 1, "delta", self.delta, "a number in (0, 1)")
            _require(sigma > 0, "noise_multiplier", sigma, "a positive number, or disable privacy")
        else:
            # Nothing is promised, so no number may read as if something were.
            for name in ("epsilon", "delta", "noise_multiplier"):
                _require(getattr(self, name) == 0, name, getattr(self, name), "0 where privacy is disabled")
        self._check_trust()
        self._check_grid()

    def _check_trust(self) -> None:
        _require(self.trust in ("nobody", "honest_majority"), "trust", self.trust, "nobody or honest_majority")
        if self.trust == "honest_majority":
            _require(self.enabled, "trust", self.trust, "nobody: without privacy there is no noise to share")
            NoiseShares(self.organizations, self.colluders, self.dropouts)
            return
        for name in ("organizations", "colluders", "dropouts"):
            _require(getattr(self, name) == 0, name, getattr(self, name), "0, or set privacy.trust=honest_majority")

    def _check_grid(self) -> None:
        _require(self.mechanism in ("gaussian", "skellam"), "mechanism", self.mechanism, "gaussian or skellam")
        if self.mechanism == "gaussian":
            for name in ("grid_step", "dimension"):
                _require(getattr(self, name) == 0, name, getattr(self, name), "0, or set privacy.mechanism=skellam")
            return
        _require(self.enabled, "mechanism", self.mechanism, "gaussian: without privacy there is no noise")
        known = 0 < self.dimension <= MOST_COORDINATES
        _require(known, "dimension", self.dimension, f"a number from 1 to {MOST_COORDINATES}")
        try:
            grid = Grid(self.grid_step, self.dimension, self.sensitivity)
        except ValueError:
            fitting = grid_for(self.sensitivity, self.dimension).step
            _require(False, "grid_step", self.grid_step, f"a power of two, such as {fitting!r}")
        # Whoever trains alone adds the noise of all shares.
        least, most = grid.variance(self.own_multiplier), grid.variance(self.noise_multiplier)
        if not (least >= LEAST_VARIANCE and most <= MOST_VARIANCE):
            raise UserError(
                f"privacy.noise_multiplier is {self.noise_multiplier}: too small, or too large, for steps of "
                f"{self.grid_step!r}",
                "set privacy.mechanism=gaussian",
            )

    @property
    def grid(self) -> Grid | None:
        """The integers that are sent; None where the noise is Gaussian."""
        if self.mechanism == "gaussian":
            return None
        return Grid(self.grid_step, self.dimension, self.sensitivity)

    def segment(self, steps: int) -> Segment:
        """So many steps, as accounting takes them; with shared noise those of the honest sum."""
        return segment(self.noise_multiplier, self.sample_rate, steps, self.grid)

    @property
    def shares(self) -> NoiseShares | None:
        """Who shares the noise; None where every organization adds all of it."""
        if self.trust == "nobody":
            return None
        return NoiseShares(self.organizations, self.colluders, self.dropouts)

    @property
    def alone(self) -> "PrivacyTerms":
        """The same budget where nobody else adds noise: what somebody needs who trains by itself."""
        return replace(self, trust="nobody", organizations=0, colluders=0, dropouts=0)

    @property
    def without_noise(self) -> "PrivacyTerms":
        """The same clipping and scales without privacy, for comparison."""
        gaussian = replace(self, mechanism="gaussian", grid_step=0.0, dimension=0)
        return replace(gaussian.alone, enabled=False, epsilon=0.0, delta=0.0, noise_multiplier=0.0)

    @property
    def own_multiplier(self) -> float:
        """The noise multiplier of what one organization adds."""
        return self.noise_multiplier if self.shares is None else self.shares.own(self.noise_multiplier)

    @property
    def sensitivity(self) -> float:
        """S: the L2 sensitivity of the contribution to adding or removing one unit."""
        return sensitivity(self.max_grad_norm, self.metrics_weight)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on every coordinate of a contribution; 0.0 where privacy is disabled."""
        return self.own_multiplier * self.sensitivity if self.enabled else 0.0


def encode_metrics(
    losses: NDArray[np.floating], clipped: NDArray[np.bool_], terms: PrivacyTerms
) -> NDArray[np.float64]:
    """The metric rows of a batch of units.

    Args:
        losses: [B] mean loss of each unit, in nats a token. A loss that is not finite counts as the cap.
        clipped: [B] whether the unit's gradient was scaled down or dropped.
        terms: the scales.

    Returns:
        float64 [B, 3] in the order of `METRICS`; every entry is in [0, a C].
    """
    capped = np.where(np.isfinite(losses), np.clip(losses, 0.0, terms.loss_cap), terms.loss_cap) / terms.loss_cap
    rows = np.stack([capped.astype(np.float64), np.ones(len(losses)), clipped.astype(np.float64)], axis=1)
    return rows * (terms.metrics_weight * terms.max_grad_norm)


def decode_metrics(metrics_sum: NDArray[np.float64], terms: PrivacyTerms) -> dict[str, float]:
    """Readable metrics from the (noisy) sum of the metric coordinates over any number of organizations.

    Args:
        metrics_sum: [3] in the order of `METRICS`.
        terms: the scales that `encode_metrics` used.

    Returns:
        "loss" the mean loss in nats a token, within [0, loss_cap]; "units" the noisy number of units; "clipped" the
        fraction of units whose gradient was clipped, within [0, 1].

    Edge cases:
        Where noise leaves less than one unit, there is no mean: loss and clipped are NaN.
    """
    if metrics_sum.shape != (len(METRICS),):
        raise ValueError(f"metrics of shape {metrics_sum.shape}, expected ({len(METRICS)},)")
    loss, units, clipped = (float(value) / (terms.metrics_weight * terms.max_grad_norm) for value in metrics_sum)
    if not units >= 1.0:
        return {"loss": math.nan, "units": units, "clipped": math.nan}
    return {
        "loss": min(max(loss / units, 0.0), 1.0) * terms.loss_cap,
        "units": units,
        "clipped": min(max(clipped / units, 0.0), 1.0),
    }


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise UserError(f"privacy.{name} is {value}", f"set it to {wanted}")
