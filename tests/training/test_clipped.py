"""Whatever a unit's gradient looks like, what it adds is never longer than the clip norm."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cotune.privacy.terms import PrivacyTerms
from cotune.training.clipped import BLOCK, add_clipped, unit_norms
from hypothesis import given, settings
from hypothesis import strategies as st

TERMS = PrivacyTerms(True, "patient", 8.0, 1e-5, 1.0, 0.5, 0.5, 3, 10.0, 0.1)
SCALES = st.sampled_from([0.0, 1e-45, 1e-30, 1e-19, 1e-3, 1.0, 1e3, 1e15, 1e18, 1e25, 3e38])
BAD = st.sampled_from([math.nan, math.inf, -math.inf])


def clipped(gradients: torch.Tensor, terms: PrivacyTerms, loss: float = 1.0) -> tuple[np.ndarray, int]:
    total = np.zeros(gradients.shape[1] + 3)
    dropped = add_clipped(total, gradients.clone(), torch.full((len(gradients),), loss), terms)
    return total, dropped


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    scales=st.lists(SCALES, min_size=1, max_size=4),
    dimension=st.sampled_from([1, 7, BLOCK - 1, BLOCK, 3 * BLOCK + 5]),
    norm=st.floats(1e-6, 1e6),
    loss=st.sampled_from([0.0, 1.0, 1e30, math.inf, math.nan, -5.0]),
)
def test_one_unit_never_exceeds_the_clip_norm(
    seed: int, scales: list[float], dimension: int, norm: float, loss: float
) -> None:
    """Coordinates of magnitudes that overflow, underflow and mix within one gradient."""
    terms = replace(TERMS, max_grad_norm=norm)
    generator = np.random.default_rng(seed)
    gradient = generator.standard_normal(dimension) * generator.choice(scales, dimension)
    gradient = np.clip(gradient, -3e38, 3e38).astype(np.float32)
    total, _ = clipped(torch.from_numpy(gradient)[None], terms, loss)
    assert np.isfinite(total).all()
    assert np.linalg.norm(total[:-3]) <= norm
    assert np.linalg.norm(total) <= terms.sensitivity


@pytest.mark.parametrize("value", [0.1, 0.3])
def test_millions_of_equal_coordinates(value: float) -> None:
    """A running float32 sum of these squares is off by up to 1%, and so would be the clipped norm."""
    gradient = torch.full((1, 6_000_000), value)
    exact = float(gradient[0, 0]) * math.sqrt(6_000_000)
    assert unit_norms(gradient)[0] == pytest.approx(exact, rel=1e-6)
    total, _ = clipped(gradient, replace(TERMS, max_grad_norm=exact / 3))
    assert np.linalg.norm(total[:-3]) <= exact / 3
    assert np.linalg.norm(total[:-3]) > 0.9999 * exact / 3


@settings(deadline=None, max_examples=50)
@given(
    bad=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 699), BAD), max_size=6),
    huge=st.sets(st.integers(0, 4), max_size=2),
)
def test_what_is_not_finite_weighs_nothing_and_is_counted(bad: list[tuple[int, int, float]], huge: set[int]) -> None:
    gradients = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 700)).astype(np.float32))
    expected, _ = clipped(gradients[[row for row in range(5) if row not in {r for r, _, _ in bad} | huge]], TERMS)
    for row in huge:
        gradients[row] = 3e38
    for row, place, value in bad:
        gradients[row, place] = value
    total, dropped = clipped(gradients, TERMS)
    assert dropped == len({row for row, _, _ in bad} | huge)
    assert np.allclose(total[:-3], expected[:-3], atol=1e-6)
    # Each still counts as a unit, and as clipped; these gradients all are.
    assert total[-3:].tolist() == pytest.approx([5 * 0.05 * 0.1, 5 * 0.05, 5 * 0.05])


def test_small_gradients_stay_as_they_are() -> None:
    gradient = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 2000)).astype(np.float32)) * 1e-4
    total, dropped = clipped(gradient, TERMS)
    assert np.array_equal(total[:-3], gradient[0].double().numpy())
    assert (dropped, total[-1]) == (0, 0.0)


def test_the_sum_is_over_units() -> None:
    gradients = torch.from_numpy(np.random.default_rng(2).standard_normal((4, 1000)).astype(np.float32))
    whole, _ = clipped(gradients, TERMS)
    assert np.allclose(whole, sum(clipped(row[None], TERMS)[0] for row in gradients), atol=1e-6)


def test_no_units_add_nothing() -> None:
    total, dropped = clipped(torch.zeros(0, 700), TERMS)
    assert (total.any(), dropped) == (False, 0)
