"""An organization's own steps in a round, and how far they can lead: SGD or AdamW, with or without FedProx' pull.

Every gradient here is noised already, so all that is done with it is post-processing, and nothing has to be the same on
two machines. With w the adapter at home, w0 the round's, g a noised mean gradient, eta the rate, mu `proximal`:

    sgd      w <- w - eta (g + mu (w - w0))
    adamw    w <- w - eta (change of Adam by g + mu (w - w0)) - eta lambda w        (lambda: the weight decay)

mu (w - w0) is the gradient of (mu / 2) |w - w0|^2, which FedProx adds to the loss (Li et al. 2020, section 3.2). AdamW
decays weights beside the change, not in the gradient (Loshchilov and Hutter 2019, Algorithm 2). Moments live for the
round.

What the decay does to w0 is public: after t steps it has taken s w0 with s = 1 - (1 - eta lambda)^t. So an organization
sends d = w - w0 + s w0 and whoever applies the sum subtracts s w0. d never depends on how large w0 is.

How large d can be after T steps:

- sgd: d is linear in the gradients. That of the step with j steps behind it counts -eta (1 - eta mu)^j, so in all they
  count at most eta sum_j |1 - eta mu|^j: the `gain`.
- adamw: with a_j = (1 - beta1) beta1^j and b_j = (1 - beta2) beta2^j, the moments after t steps are m = sum a_j g_j
  and v = sum b_j g_j^2 over the gradients j steps ago. By Cauchy and Schwarz |m| <= sqrt(sum a_j^2 / b_j) sqrt(v). With
  both corrections a coordinate changes by at most

      R_t = sqrt(sum_{j<t} a_j^2 / b_j) sqrt(1 - beta2^t) / (1 - beta1^t),

  whatever the gradients are; there are some that reach it. R_1 = 1, and for the usual constants R_t stays near 1 over
  some ten steps and goes to 7.3: it is what Kingma and Ba (2015, section 2.1) describe, for any number of steps. So
  |d| <= eta sum_t R_t |1 - eta lambda|^(T - t) in each coordinate: the `farthest`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .base import Adapter, Vector
from .optimizers import Adam, Moments, power

_MOST_STEPS = 10_000
# Floats lose some 1e-16 in each operation.
_SLACK = 1 + 1e-9


@dataclass(frozen=True)
class HomeSide:
    """The steps at home.

    Attributes:
        optimizer: "sgd" or "adamw".
        steps: in a round, from 1 to 10,000. rate: of each, positive.
        proximal: mu, not negative. beta1, beta2, stability, decay: of AdamW.

    Raises:
        ValueError: a number is outside its range, or has no use with this optimizer.
    """

    optimizer: Literal["sgd", "adamw"]
    steps: int
    rate: float
    proximal: float
    beta1: float
    beta2: float
    stability: float
    decay: float

    def __post_init__(self) -> None:
        adamw = self.optimizer == "adamw"
        ranges = (
            ("local_optimizer is neither sgd nor adamw", adamw or self.optimizer == "sgd"),
            (f"local_steps is not from 1 to {_MOST_STEPS}", type(self.steps) is int and 1 <= self.steps <= _MOST_STEPS),
            ("local_learning_rate is not positive", self.rate > 0),
            ("proximal is negative", self.proximal >= 0),
            ("proximal times local_learning_rate is above 1", adamw or self.rate * self.proximal <= 1),
            ("local_weight_decay is for adamw only", adamw or self.decay == 0),
            ("local_weight_decay times local_learning_rate is not from 0 to 1", 0 <= self.rate * self.decay <= 1),
            ("local_beta1 is not in [0, 1)", 0 <= self.beta1 < 1),
            ("local_beta2 is not in (0, 1)", 0 < self.beta2 < 1),
            # Else gradients are remembered longer than their squares: m / sqrt(v) grows exponentially with steps.
            ("the square of local_beta1 is above local_beta2", self.beta1 * self.beta1 <= self.beta2),
            ("local_stability is not positive", self.stability > 0),
        )
        for what, holds in ranges:
            if not holds:
                raise ValueError(what)

    @property
    def gain(self) -> float:
        """Of SGD: by how much all gradients together count in what is sent, at most."""
        kept, counts = 1 - self.rate * self.proximal, 0.0
        for _ in range(self.steps):
            counts = kept * counts + 1
        return _SLACK * self.rate * counts

    @property
    def farthest(self) -> float:
        """Of AdamW: the largest magnitude of one coordinate of what is sent, whatever the gradients are."""
        ratio, weights, farthest = self.beta1 * self.beta1 / self.beta2, 0.0, 0.0
        first = second = 1.0
        for _ in range(self.steps):
            weights, first, second = ratio * weights + 1, first * self.beta1, second * self.beta2
            longest = (1 - self.beta1) * math.sqrt(weights / (1 - self.beta2))
            corrected = longest * math.sqrt(1 - second) / (1 - first)
            farthest = (1 - self.rate * self.decay) * farthest + self.rate * corrected
        return _SLACK * farthest

    @property
    def shrunk(self) -> float:
        """s: the fraction of the round's adapter that weight decay takes in the round."""
        return 1 - power(1 - self.rate * self.decay, self.steps)

    def begin(self, adapter: Adapter) -> "Walk":
        """The steps of a round that begin at float32 [k]."""
        return Walk(self, adapter.astype(np.float64))


class Walk:
    """The way of one round.

    Attributes:
        here: float64 [k], the adapter after the steps so far.
    """

    def __init__(self, side: HomeSide, start: Vector) -> None:
        self._side, self._start = side, start
        self._moved = np.zeros_like(start)
        self._adam = Adam(side.beta1, side.beta2, side.stability)
        self._moments: Moments = {name: np.full_like(start, value) for name, value in self._adam.starts.items()}
        self._taken = 0

    @property
    def here(self) -> Vector:
        decayed = 1 - power(1 - self._side.rate * self._side.decay, self._taken)
        return self._start - decayed * self._start + self._moved

    @property
    def moved(self) -> Vector:
        """d: what is sent, float64 [k]."""
        return self._moved

    def step(self, gradient: Vector) -> None:
        """One step by a noised mean gradient, float64 [k]."""
        side = self._side
        change = gradient + side.proximal * (self.here - self._start)
        self._taken += 1
        if side.optimizer == "adamw":
            change, self._moments = self._adam.change(change, self._moments, self._taken)
        self._moved = (1 - side.rate * side.decay) * self._moved - side.rate * change
