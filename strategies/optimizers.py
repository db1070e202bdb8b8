"""Optimizers on a noised gradient: what they do is post-processing, so none of them costs privacy.

Each is a frozen value with its constants, and a function of a gradient and of what it remembers. All arithmetic is
element by element, of + - * /, square roots and comparisons, so that machines agree on every bit: see `model`.

- SGD with heavy-ball momentum (Polyak 1964), as in `torch.optim.SGD`.
- Adam (Kingma and Ba 2015, Algorithm 1), bias-corrected.
- Adagrad and Yogi as in "Adaptive Federated Optimization" (Reddi et al. 2021, Algorithm 2): a first moment without bias
  correction, and a second moment that starts at the square of tau, their `stability`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, Protocol

import numpy as np

from .base import Vector

Moments = dict[str, Vector]
Name = Literal["sgd", "adam", "adagrad", "yogi"]


class Optimizer(Protocol):
    """How a gradient becomes a change; the adapter then moves by minus the learning rate times the change."""

    @property
    def starts(self) -> dict[str, float]:
        """The moments that are remembered, and what each of their numbers is before the first step."""

    def change(self, gradient: Vector, moments: Moments, step: int) -> tuple[Vector, Moments]:
        """One step.

        Args:
            gradient: float64 [k]. moments: as the last step left them, float64 [k] each.
            step: which step of these coordinates it is, from 1.

        Returns:
            The change, float64 [k], and the new moments.
        """


@dataclass(frozen=True)
class Sgd:
    """m <- momentum m + g; the change is m.

    Attributes:
        momentum: in [0, 1).
    """

    momentum: float
    starts: ClassVar[dict[str, float]] = {"momentum": 0.0}

    def change(self, gradient: Vector, moments: Moments, step: int) -> tuple[Vector, Moments]:
        momentum = self.momentum * moments["momentum"] + gradient
        return momentum, {"momentum": momentum}


@dataclass(frozen=True)
class Adam:
    """Moments of the gradient and of its square, both bias-corrected.

    Attributes:
        beta1, beta2: in [0, 1). stability: Adam's epsilon (named so, to keep "epsilon" for privacy).
    """

    beta1: float
    beta2: float
    stability: float
    starts: ClassVar[dict[str, float]] = {"momentum": 0.0, "second": 0.0}

    def change(self, gradient: Vector, moments: Moments, step: int) -> tuple[Vector, Moments]:
        first = self.beta1 * moments["momentum"] + (1 - self.beta1) * gradient
        second = self.beta2 * moments["second"] + (1 - self.beta2) * (gradient * gradient)
        corrected = first / (1 - power(self.beta1, step))
        change = corrected / (np.sqrt(second / (1 - power(self.beta2, step))) + self.stability)
        return change, {"momentum": first, "second": second}


@dataclass(frozen=True)
class Adagrad:
    """The sum of all squares; rates only fall. With beta1 = 0 it is `torch.optim.Adagrad`.

    Attributes:
        beta1: in [0, 1). stability: the paper's tau.
    """

    beta1: float
    stability: float

    @property
    def starts(self) -> dict[str, float]:
        return {"momentum": 0.0, "second": self.stability * self.stability}

    def change(self, gradient: Vector, moments: Moments, step: int) -> tuple[Vector, Moments]:
        first = self.beta1 * moments["momentum"] + (1 - self.beta1) * gradient
        second = moments["second"] + gradient * gradient
        return first / (np.sqrt(second) + self.stability), {"momentum": first, "second": second}


@dataclass(frozen=True)
class Yogi:
    """As Adam, but the second moment moves by the size of the square, not of the difference to it (Zaheer et al. 2018).

    Attributes:
        beta1, beta2: in [0, 1). stability: the paper's tau.
    """

    beta1: float
    beta2: float
    stability: float

    @property
    def starts(self) -> dict[str, float]:
        return {"momentum": 0.0, "second": self.stability * self.stability}

    def change(self, gradient: Vector, moments: Moments, step: int) -> tuple[Vector, Moments]:
        first = self.beta1 * moments["momentum"] + (1 - self.beta1) * gradient
        square = gradient * gradient
        second = moments["second"] - (1 - self.beta2) * square * np.sign(moments["second"] - square)
        return first / (np.sqrt(second) + self.stability), {"momentum": first, "second": second}


_MAKERS: Final[dict[str, Callable[[float, float, float], Optimizer]]] = {
    "sgd": lambda momentum, _beta2, _stability: Sgd(momentum),
    "adam": Adam,
    "adagrad": lambda momentum, _beta2, stability: Adagrad(momentum, stability),
    "yogi": Yogi,
}


def optimizer_of(name: str, momentum: float, beta2: float, stability: float) -> Optimizer:
    """The optimizer of that name; what it has no use for is ignored.

    Args:
        momentum: SGD's, and beta1 of the others. stability: Adam's epsilon, Adagrad's and Yogi's tau.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in _MAKERS:
        raise ValueError(f"no optimizer {name!r}: choose from {', '.join(_MAKERS)}")
    return _MAKERS[name](momentum, beta2, stability)


def power(base: float, exponent: int) -> float:
    """base ** exponent by multiplication, whose bits are the same on every machine; those of a library's are not."""
    product = 1.0
    for _ in range(exponent):
        product *= base
    return product
