"""Clip coefficients against a loop, and the bound itself."""

import math

import numpy as np
import pytest
from cotune.privacy.clipping import clip
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


@given(
    norms=st.lists(st.floats(0, 1e30) | st.sampled_from([math.nan, math.inf]), max_size=40),
    max_norm=st.floats(1e-6, 1e6),
)
def test_equals_a_loop(norms: list[float], max_norm: float) -> None:
    found = clip(np.array(norms), max_norm)
    expected = [(0.0 if not math.isfinite(value) else min(1.0, max_norm / max(value, max_norm))) for value in norms]
    np.testing.assert_allclose(found.coefficients, expected, rtol=1e-15)
    assert found.clipped.tolist() == [not value <= max_norm for value in norms]
    assert found.non_finite == sum(not math.isfinite(value) for value in norms)


@given(
    gradients=arrays(np.float64, (5, 7), elements=st.floats(-1e6, 1e6)),
    other=arrays(np.float64, (7,), elements=st.floats(-1e6, 1e6)),
    max_norm=st.floats(1e-3, 1e3),
)
def test_one_unit_moves_the_sum_by_at_most_the_bound(gradients: np.ndarray, other: np.ndarray, max_norm: float) -> None:
    def clipped_sum(rows: np.ndarray) -> np.ndarray:
        return clip(np.linalg.norm(rows, axis=1), max_norm).coefficients @ rows

    moved = clipped_sum(np.vstack([gradients, other])) - clipped_sum(gradients)
    assert np.linalg.norm(moved) <= max_norm * (1 + 1e-9)


def test_small_gradients_stay_exact() -> None:
    assert clip(np.array([0.0, 0.5, 1.0], dtype=np.float32), 1.0).coefficients.tolist() == [1.0, 1.0, 1.0]


def test_bad_input_is_refused() -> None:
    for max_norm in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="clipping"):
            clip(np.ones(2), max_norm)
    with pytest.raises(ValueError, match="negative"):
        clip(np.array([-1.0]), 1.0)
