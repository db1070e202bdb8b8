"""Whatever a unit's gradient looks like, what it adds is never longer than the clip norm."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from cotune.privacy.terms import PrivacyTerms
from cotune.training.clipped import BLOCK, MOST_UNITS, add_clipped, in_numbers, norm_slack, steps_of, unit_norm
from hypothesis import given, settings
from hypothesis import strategies as st

TERMS = PrivacyTerms(True, "patient", 8.0, 1e-5, 1.0, 0.5, 0.5, 3, 10.0, 0.1)
SCALES = st.sampled_from([0.0, 1e-45, 1e-30, 1e-19, 1e-3, 1.0, 1e3, 1e15, 1e18, 1e25, 3e38])
BAD = st.sampled_from([math.nan, math.inf, -math.inf])


def clipped(gradients: torch.Tensor, terms: PrivacyTerms, loss: float = 1.0) -> tuple[np.ndarray, int]:
    total = torch.zeros(gradients.shape[1] + 3, dtype=torch.int64)
    dropped = add_clipped(total, gradients, torch.full((len(gradients),), loss, dtype=torch.float64), terms)
    return in_numbers(total, terms), dropped


def length(numbers: np.ndarray) -> float:
    """Right to the last bit: squares of float64 numbers are fractions, and so is their sum."""
    return math.sqrt(sum((Fraction(float(number)) ** 2 for number in numbers[numbers != 0]), Fraction()))


def exceeds(numbers: np.ndarray, most: Fraction) -> bool:
    """Whether the exact square of the length is above the exact `most`."""
    return sum((Fraction(float(number)) ** 2 for number in numbers[numbers != 0]), Fraction()) > most


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    scales=st.lists(SCALES, min_size=1, max_size=4),
    dimension=st.sampled_from([1, 7, BLOCK - 1, BLOCK, 3 * BLOCK + 5]),
    norm=st.one_of(st.floats(1e-9, 1e9), st.sampled_from([0.25, 0.5, 1.0, math.nextafter(1.0, 2.0)])),
    weight=st.floats(1e-6, 1e3),
    loss=st.sampled_from([0.0, 1.0, 1e30, math.inf, math.nan, -5.0]),
)
def test_one_unit_never_exceeds_the_clip_norm(
    seed: int, scales: list[float], dimension: int, norm: float, weight: float, loss: float
) -> None:
    """Coordinates of magnitudes that overflow, underflow and mix within one gradient; in exact arithmetic."""
    terms = replace(TERMS, max_grad_norm=norm, metrics_weight=weight)
    generator = np.random.default_rng(seed)
    gradient = generator.standard_normal(dimension) * generator.choice(scales, dimension)
    gradient = np.clip(gradient, -3e38, 3e38).astype(np.float32)
    total, _ = clipped(torch.from_numpy(gradient)[None], terms, loss)
    assert np.isfinite(total).all()
    assert not exceeds(total[:-3], Fraction(norm) ** 2)
    assert not exceeds(total, Fraction(norm) ** 2 * (1 + 3 * Fraction(weight) ** 2))


@pytest.mark.parametrize("value", [0.1, 0.3])
def test_millions_of_equal_coordinates(value: float) -> None:
    """A running float32 sum of these squares is off by up to 1%, and so would be the clipped norm."""
    gradient = torch.full((1, 6_000_000), value)
    exact = float(gradient[0, 0]) * math.sqrt(6_000_000)
    assert unit_norm(gradient[0]) == pytest.approx(exact, rel=1e-6)
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
    # To half a step of the grid.
    assert np.abs(total[:-3] - gradient[0].double().numpy()).max() <= steps_of(TERMS)[0] / 2
    assert (dropped, total[-1]) == (0, 0.0)


@settings(deadline=None, max_examples=60)
@given(
    norm=st.floats(1e-9, 1e9),
    over=st.floats(0.9, 1.1),
    dimension=st.sampled_from([1, 2, 511, 1024, 4099]),
    seed=st.integers(0, 2**32 - 1),
)
def test_just_above_and_below_the_clip_norm(norm: float, over: float, dimension: int, seed: int) -> None:
    terms = replace(TERMS, max_grad_norm=norm)
    gradient = np.random.default_rng(seed).standard_normal(dimension)
    gradient *= over * norm / np.linalg.norm(gradient)
    total, _ = clipped(torch.from_numpy(gradient.astype(np.float32))[None], terms)
    assert not exceeds(total[:-3], Fraction(norm) ** 2)
    assert length(total[:-3]) > min(over, 1.0) * norm * (1 - 5e-5)


@pytest.mark.parametrize("dimension", [1, 300, 2**26])
@pytest.mark.parametrize("weight", [1e-6, 0.1, 1e3])
def test_the_slack_covers_all_that_is_lost(dimension: int, weight: float) -> None:
    """The sum in the module's text."""
    roundings = math.sqrt(dimension) * 2.0**-32 + 3 * weight**2 * 2.0**-31
    norm, scaling = BLOCK / 2 * 2.0**-24 + 2.0**-23, 4 * 2.0**-24
    assert norm_slack(dimension, replace(TERMS, metrics_weight=weight)) > norm + scaling + roundings


@settings(deadline=None, max_examples=30)
@given(
    norm=st.floats(1e-9, 1e9), weight=st.floats(1e-6, 1e3), order=st.permutations(range(6)), seed=st.integers(0, 2**32)
)
def test_the_sum_is_exact_and_so_are_differences(norm: float, weight: float, order: list[int], seed: int) -> None:
    """With a unit or without it, in whatever order: everybody else adds the same."""
    terms = replace(TERMS, max_grad_norm=norm, metrics_weight=weight)
    gradients = torch.from_numpy(np.random.default_rng(seed).standard_normal((6, 700)).astype(np.float32)) * norm
    gradients[3] *= 1e20
    whole, _ = clipped(gradients, terms, 2.5)
    assert np.array_equal(clipped(gradients[order], terms, 2.5)[0], whole)
    for unit in range(6):
        others, _ = clipped(gradients[[row for row in range(6) if row != unit]], terms, 2.5)
        assert np.array_equal(whole - others, clipped(gradients[[unit]], terms, 2.5)[0])


@pytest.mark.parametrize(("norm", "weight"), [(1.0, 0.1), (0.3, 1e3), (1e-9, 1e-6), (1e9, 1e3)])
def test_sums_of_the_most_units_fit_exactly(norm: float, weight: float) -> None:
    """All of them along one coordinate, with the largest metrics."""
    terms = replace(TERMS, max_grad_norm=norm, metrics_weight=weight)
    total = torch.zeros(4, dtype=torch.int64)
    add_clipped(total, torch.tensor([[3.0 * norm]]), torch.tensor([math.inf]), terms)
    assert 2**30 <= int(total.max()) <= 2**32
    everybody = total * MOST_UNITS - torch.tensor([1, 0, 0, 1])
    numbers, (step, metric_step) = in_numbers(everybody, terms), steps_of(terms)
    for number, count, one in zip(numbers, everybody.tolist(), [step, *[metric_step] * 3], strict=True):
        assert Fraction(float(number)) == count * Fraction(one)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_unit_adds_the_same_integers_whatever_the_others(threads: int) -> None:
    """Many coordinates and many units: where libraries would share a sum out among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        gradients = torch.from_numpy(np.random.default_rng(4).standard_normal((9, 300_001)).astype(np.float32))
        alone = torch.zeros(300_004, dtype=torch.int64)
        add_clipped(alone, gradients[4:5].clone(), torch.ones(1), TERMS)
        others, whole = torch.zeros_like(alone), torch.zeros_like(alone)
        add_clipped(others, gradients[[0, 1, 2, 3, 5, 6, 7, 8]], torch.ones(8), TERMS)
        add_clipped(whole, gradients, torch.ones(9), TERMS)
        assert torch.equal(whole - others, alone)
    finally:
        torch.set_num_threads(before)


def test_the_sum_is_over_units() -> None:
    gradients = torch.from_numpy(np.random.default_rng(2).standard_normal((4, 1000)).astype(np.float32))
    whole, _ = clipped(gradients, TERMS)
    assert np.allclose(whole, sum(clipped(row[None], TERMS)[0] for row in gradients), atol=1e-6)


def test_no_units_add_nothing() -> None:
    total, dropped = clipped(torch.zeros(0, 700), TERMS)
    assert (bool(total.any()), dropped) == (False, 0)
