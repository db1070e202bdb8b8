"""The bound of auditing in one run: equal to the paper's program, and sound where the truth is known exactly."""

import math

import numpy as np
import pytest
from cotune.attacks import bound
from cotune.attacks.bound import best_bound, guess_counts, lower_bound, p_value
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom


def by_loop(m: int, r: int, v: int, eps: float, delta: float) -> float:
    """The reference: the sums of theorem 5.2, one term after another."""
    chance = math.exp(eps) / (1 + math.exp(eps))
    beta = sum(binom.pmf(k, r, chance) for k in range(v, r + 1))
    largest = 0.0
    for i in range(1, v + 1):
        largest = max(largest, sum(binom.pmf(k, r, chance) for k in range(v - i, v)) / i)
    return min(1.0, beta + 2 * m * delta * largest)


@given(
    r=st.integers(0, 40),
    more=st.integers(0, 30),
    share=st.floats(0, 1),
    eps=st.floats(0, 6),
    delta=st.sampled_from([0.0, 1e-6, 1e-3, 0.2]),
)
def test_p_value_equals_a_loop(r: int, more: int, share: float, eps: float, delta: float) -> None:
    v = round(share * r)
    assert p_value(r + more, r, v, eps, delta) == pytest.approx(
        by_loop(r + more, r, v, eps, delta), rel=1e-9, abs=1e-15
    )


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("guesses", [10, 60, 400])
def test_randomized_response_is_overrated_as_rarely_as_promised(epsilon: float, guesses: int) -> None:
    """Randomized response attains epsilon, and its guesses are binomial: the probability of a bound above the truth is
    a sum, and no draw is needed."""
    chance = 1 / (1 + math.exp(-epsilon))
    too_high = [v for v in range(guesses + 1) if lower_bound(guesses, guesses, v, 0.0, 0.05) > epsilon]
    assert binom.pmf(too_high, guesses, chance).sum() <= 0.05


def test_all_right_gives_the_closed_form() -> None:
    """p^100 = 0.05."""
    p = 0.05**0.01
    assert lower_bound(100, 100, 100, 0.0, 0.05) == pytest.approx(math.log(p / (1 - p)), abs=0.01)
    assert lower_bound(100, 100, 100, 0.0, 0.05) <= math.log(p / (1 - p))


def test_half_right_proves_nothing_and_more_right_proves_more() -> None:
    bounds = [lower_bound(1000, 200, right, 1e-5, 0.05) for right in range(80, 201, 20)]
    assert bounds[:2] == [0.0, 0.0]
    assert bounds == sorted(bounds)
    assert bounds[-1] > 3


def test_a_larger_delta_proves_less() -> None:
    bounds = [lower_bound(1000, 100, 95, delta, 0.05) for delta in (0.0, 1e-5, 1e-4, 1e-3, 1e-2)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[-2] > bounds[-1] == 0


@given(canaries=st.integers(2, 10_000))
def test_numbers_of_guesses_are_fixed_and_even(canaries: int) -> None:
    counts = guess_counts(canaries)
    assert all(count % 2 == 0 and 2 <= count <= canaries for count in counts)
    assert list(counts) == sorted(set(counts), reverse=True)


def test_doubts_add_up_to_what_was_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    doubts: list[float] = []

    def record(_m: int, _r: int, _v: int, _delta: float, doubt: float) -> float:
        doubts.append(doubt)
        return 0.0

    monkeypatch.setattr(bound, "lower_bound", record)
    scores = np.random.default_rng(0).standard_normal((2, 400))
    best_bound({"one": scores[0], "other": scores[1]}, scores[0] > 0.3, 1e-5, 0.95)
    assert len(doubts) == 2 * len(guess_counts(400))
    assert sum(doubts) == pytest.approx(0.05)


def test_the_better_guesser_wins_and_counts_are_right() -> None:
    generator = np.random.default_rng(1)
    joined = generator.random(1000) < 0.5
    knows, guesses = np.where(joined, 1.0, -1.0) + 0.1 * generator.standard_normal(1000), generator.random(1000)
    found = best_bound({"guesses": guesses, "knows": knows}, joined, 1e-6, 0.95)
    assert found.guesser == "knows"
    assert found.right == found.guesses
    assert found.epsilon > 3
    # One that knows but believes the opposite is no better than one that does not know.
    assert best_bound({"wrong": -knows}, joined, 1e-6, 0.95).epsilon == 0


def test_a_score_that_is_no_number_is_no_opinion() -> None:
    joined = np.arange(400) % 2 == 0
    scores = np.where(joined, 1.0, -1.0)
    scores[:80] = np.nan
    assert best_bound({"some": scores}, joined, 0.0, 0.95).epsilon > 2


def test_impossible_counts_are_refused() -> None:
    for m, r, v in ((10, 5, 6), (10, 11, 3), (10, 5, -1)):
        with pytest.raises(ValueError, match="guesses"):
            p_value(m, r, v, 1.0, 0.0)
