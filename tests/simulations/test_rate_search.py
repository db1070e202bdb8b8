"""The search for a rate: near the best of every smooth curve, asked once for each rate, and the same for all."""

import math

import pytest
from cotune.simulations.rate_search import FARTHEST, FINE, search
from hypothesis import given
from hypothesis import strategies as st


@given(best=st.floats(-4, 4), start=st.floats(-2, 2))
def test_it_ends_near_the_best(best: float, start: float) -> None:
    asked: list[float] = []

    def score(rate: float) -> float:
        asked.append(rate)
        return -abs(math.log(rate) - best)

    found = search(math.exp(start), score)
    assert abs(math.log(found) - best) <= math.log(FINE) / 2 + 1e-9 + max(0.0, abs(best - start) - 5.5)
    assert len(asked) == len(set(asked)) >= 6
    assert len(asked) <= 6 + FARTHEST


def test_a_dip_between_rates_that_change_nothing_and_rates_that_teach_is_jumped() -> None:
    scores = {-2: 0.2, -1: 0.25, 0: 0.3, 1: 0.22, 2: 0.6, 3: 0.1}
    assert search(1.0, lambda rate: scores.get(round(math.log(rate, 4), 3), 0.0)) == 16.0


def test_of_equal_scores_the_lower_rate_counts() -> None:
    assert search(1.0, lambda rate: 0.5) == pytest.approx(1 / 4**FARTHEST / 2)
    assert search(1.0, lambda rate: float(rate <= 1)) < 1
