"""Poisson sampling and choice without replacement."""

import math

import numpy as np
import pytest
from cotune.privacy.sampling import Randomness, SeededRandomness, SystemRandomness, poisson_sample
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest


class Fixed:
    """Uniforms from a list."""

    def __init__(self, values: list[float]) -> None:
        self.values = np.array(values)

    def uniform(self, size: int) -> np.ndarray:
        assert size == len(self.values)
        return self.values

    def choose(self, n: int, k: int) -> np.ndarray:
        raise NotImplementedError


@given(values=st.lists(st.floats(0, 1, exclude_max=True), max_size=50), rate=st.floats(1e-9, 1))
def test_each_unit_joins_by_its_own_uniform(values: list[float], rate: float) -> None:
    expected = [index for index, value in enumerate(values) if value < rate]
    found = poisson_sample(len(values), rate, Fixed(values))
    assert found.tolist() == expected
    assert found.dtype == np.int64


@pytest.mark.parametrize("randomness", [SystemRandomness(), SeededRandomness(1)])
@pytest.mark.parametrize("rate", [0.01, 0.25, 0.9])
def test_rate_and_independence(randomness: Randomness, rate: float) -> None:
    n, rounds = 2_000, 500
    joined = np.zeros((rounds, n))
    for step in range(rounds):
        joined[step, poisson_sample(n, rate, randomness)] = 1
    spread = math.sqrt(rate * (1 - rate))
    assert abs(joined.mean() - rate) < 7 * spread / math.sqrt(n * rounds)
    # Binomial batch sizes, not fixed ones: the variance is n q (1 - q), within 7 standard errors.
    sizes = joined.sum(axis=1)
    assert abs(sizes.var() / (n * spread**2) - 1) < 7 * math.sqrt(2 / rounds)
    # No unit is favored, and neighbors are independent. At the lowest rate a unit's tail is heavier than a Gaussian's.
    assert np.abs(joined.mean(axis=0) - rate).max() < 10 * spread / math.sqrt(rounds)
    centered = (joined - rate) / spread
    assert abs((centered[:, 1:] * centered[:, :-1]).mean()) < 7 / math.sqrt(rounds * (n - 1))
    assert abs((centered[1:] * centered[:-1]).mean()) < 7 / math.sqrt((rounds - 1) * n)


@pytest.mark.parametrize("rate", [1e-3, 0.03, 0.3, 0.999])
def test_the_rate_is_binomial(rate: float) -> None:
    """A rate off by a twentieth, or q = 1 / ceil(1 / q) in its place, would have a p-value of about zero."""
    n = 4_000_000
    joined = len(poisson_sample(n, rate, SystemRandomness()))
    assert binomtest(joined, n, rate).pvalue > 1e-9
    if rate < 0.9:
        assert binomtest(joined, n, 1.2 * rate).pvalue < 1e-9


def test_edges() -> None:
    assert poisson_sample(0, 0.5, SystemRandomness()).tolist() == []
    assert poisson_sample(5, 1.0, SystemRandomness()).tolist() == [0, 1, 2, 3, 4]
    for n, rate in ((-1, 0.5), (5, 0.0), (5, 1.1), (5, math.nan)):
        with pytest.raises(ValueError, match="cannot sample"):
            poisson_sample(n, rate, SystemRandomness())


@given(n=st.integers(0, 60), k=st.integers(0, 80))
def test_choices_are_distinct_ascending_and_complete(n: int, k: int) -> None:
    for randomness in (SystemRandomness(), SeededRandomness(n)):
        chosen = randomness.choose(n, k).tolist()
        assert len(chosen) == min(n, k)
        assert chosen == sorted(set(chosen))
        assert set(chosen) <= set(range(n))


def test_every_choice_is_equally_likely() -> None:
    randomness = SystemRandomness()
    draws = 30_000
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(draws):
        chosen = tuple(randomness.choose(5, 2).tolist())
        counts[chosen] = counts.get(chosen, 0) + 1
    assert len(counts) == 10
    assert max(abs(count - draws / 10) for count in counts.values()) < 7.5 * math.sqrt(draws * 0.09)


def test_negative_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        SystemRandomness().choose(3, -1)


def test_seeds_repeat_and_the_system_does_not() -> None:
    assert SeededRandomness(5).uniform(9).tolist() == SeededRandomness(5).uniform(9).tolist()
    assert SeededRandomness(5).uniform(9).tolist() != SeededRandomness(6).uniform(9).tolist()
    assert SystemRandomness().uniform(9).tolist() != SystemRandomness().uniform(9).tolist()
