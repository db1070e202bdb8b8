"""A quadratic in place of a model: unit j pulls the adapter toward targets[j]."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from cotune.privacy.terms import METRICS, PrivacyTerms


@dataclass
class QuadraticTrainer:
    """Every unit is in every batch; the gradient of unit j at x is x - targets[j]; no clipping, no noise."""

    targets: np.ndarray
    visited: list[np.ndarray] = field(default_factory=list)

    def private_sum(self, adapter: np.ndarray, terms: PrivacyTerms, randomness: object) -> np.ndarray:
        self.visited.append(adapter.copy())
        gradient = (adapter.astype(np.float64) - self.targets).sum(axis=0)
        return np.concatenate([gradient, np.full(len(METRICS), float(len(self.targets)))])


@pytest.fixture
def quadratic() -> QuadraticTrainer:
    return QuadraticTrainer(np.random.default_rng(0).normal(size=(8, 5)))


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
