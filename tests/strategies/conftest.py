"""A quadratic in place of a model: unit j pulls the adapter toward targets[j]."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cotune.adapter.part import Part
from cotune.privacy.terms import METRICS, PrivacyTerms
from cotune.strategies.fedavg import FedAvg


@dataclass
class QuadraticTrainer:
    """Every unit is in every batch; the gradient of unit j at x is x - targets[j]; no clipping, no noise."""

    targets: np.ndarray
    visited: list[np.ndarray] = field(default_factory=list)

    def private_sum(
        self, adapter: np.ndarray, terms: PrivacyTerms, randomness: object, part: Part | None = None
    ) -> np.ndarray:
        self.visited.append(adapter.copy())
        gradient = (adapter.astype(np.float64) - self.targets).sum(axis=0)
        gradient = gradient if part is None else part.of(gradient)
        return np.concatenate([gradient, np.full(len(METRICS), float(len(self.targets)))])


@pytest.fixture
def quadratic() -> QuadraticTrainer:
    return QuadraticTrainer(np.random.default_rng(0).normal(size=(8, 5)))


@pytest.fixture
def average() -> Callable[..., FedAvg]:
    """Plain FedAvg, but for what is given."""

    def make(**settings: Any) -> FedAvg:
        server = {"server_optimizer": "sgd", "learning_rate": 1.0, "momentum": 0.0, "beta2": 0.99, "stability": 1e-3}
        home = {"local_steps": 2, "local_learning_rate": 0.3, "local_optimizer": "sgd", "local_beta1": 0.9}
        more = {"local_beta2": 0.999, "local_stability": 1e-8, "local_weight_decay": 0.0, "proximal": 0.0}
        return FedAvg(**{**server, **home, **more, "averaging": 0.0, **settings})  # type: ignore[arg-type]

    return make


@pytest.fixture
def terms() -> PrivacyTerms:
    return PrivacyTerms(
        enabled=True,
        unit="example",
        epsilon=8.0,
        delta=1e-5,
        noise_multiplier=0.9,
        max_grad_norm=1.0,
        sample_rate=0.25,
        records_per_unit=1,
        loss_cap=5.0,
        metrics_weight=0.1,
    )
