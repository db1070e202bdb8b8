"""Steps at home equal torch's AdamW and a loop of FedProx, and what is sent keeps to its bounds whatever happens."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cotune.strategies.home_side import HomeSide
from hypothesis import given
from hypothesis import strategies as st

ADAMW = HomeSide("adamw", 6, 0.02, 0.0, 0.9, 0.999, 1e-8, 0.0)
SGD = HomeSide("sgd", 6, 0.3, 0.0, 0.9, 0.999, 1e-8, 0.0)
NUMBERS = st.floats(-1e6, 1e6).map(lambda number: number if abs(number) > 1e-9 else 0.0)


@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5]), st.sampled_from([0.0, 3.0]))
def test_adamw_equals_torch(steps: int, seed: int, decay: float, proximal: float) -> None:
    """With FedProx' term in the loss, and the decay beside it."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=5).astype(np.float32)
    side = replace(ADAMW, steps=steps, decay=decay, proximal=proximal)
    walk, reference = side.begin(start), torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = torch.optim.AdamW([reference], lr=0.02, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)
    for _ in range(steps):
        target = torch.tensor(rng.normal(size=5) * 3)
        loss = ((reference - target) ** 2).sum() / 2
        loss = loss + proximal / 2 * ((reference - torch.tensor(start)) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        walk.step(walk.here - target.numpy())
        optimizer.step()
    ended = reference.detach().numpy()
    np.testing.assert_allclose(walk.here, ended, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(walk.moved - side.shrunk * start, ended - start, rtol=1e-6, atol=1e-8)


def test_a_proximal_step_equals_the_gradient_of_the_proximal_loss() -> None:
    side, start = replace(SGD, proximal=2.0), np.array([1.0, -2.0], np.float32)
    walk, here, target = side.begin(start), start.astype(np.float64), np.array([5.0, 3.0])
    for _ in range(6):
        walk.step(walk.here - target)
        here = here - 0.3 * ((here - target) + 2.0 * (here - start))
    np.testing.assert_allclose(walk.here, here, rtol=1e-12)
    free = SGD.begin(start)
    for _ in range(6):
        free.step(free.here - target)
    assert (np.abs(walk.moved) < np.abs(free.moved)).all()


@given(
    st.lists(NUMBERS, min_size=1, max_size=30),
    st.floats(0, 0.999),
    st.floats(0, 0.9999),
    st.sampled_from([0.0, 5.0]),
    st.sampled_from([0.0, 10.0]),
    st.floats(-1e6, 1e6),
)
def test_adamw_never_sends_more_than_its_farthest(
    gradients: list[float], beta1: float, beta2: float, decay: float, proximal: float, start: float
) -> None:
    beta2 = max(beta2, beta1 * beta1, 1e-6)
    side = replace(ADAMW, steps=len(gradients), beta1=beta1, beta2=beta2, decay=decay, proximal=proximal)
    walk = side.begin(np.array([start], np.float32))
    for gradient in gradients:
        walk.step(np.array([gradient]))
    assert abs(walk.moved[0]) <= side.farthest


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.9, 0.99), (0.5, 0.9), (0.7, 0.5), (0.0, 0.999)])
@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_there_are_gradients_that_reach_the_bound_of_a_step(beta1: float, beta2: float, steps: int) -> None:
    """So it is no larger than it must be: those for which Cauchy and Schwarz hold with equality."""
    side = replace(ADAMW, steps=steps, beta1=beta1, beta2=beta2, rate=1.0)
    shorter = replace(side, steps=steps - 1).farthest if steps > 1 else 0.0
    walk, before = side.begin(np.zeros(1, np.float32)), 0.0
    for past in reversed(range(steps)):
        before = walk.moved[0]
        walk.step(np.array([(beta1 / beta2) ** past]))
    assert before - walk.moved[0] == pytest.approx(side.farthest - shorter, rel=1e-4)


def test_usual_constants_move_a_coordinate_by_the_rate_and_hardly_more() -> None:
    one, ten = (replace(ADAMW, steps=steps).farthest / (steps * ADAMW.rate) for steps in (1, 10))
    assert one == pytest.approx(1.0)
    assert ten < 1.2


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.sampled_from([0.0, 0.5, 1.0, 3.0]), NUMBERS)
def test_sgd_never_counts_the_gradients_for_more_than_its_gain(
    gradients: list[float], proximal: float, start: float
) -> None:
    side = replace(SGD, steps=len(gradients), proximal=proximal)
    walk = side.begin(np.array([start], np.float32))
    for gradient in gradients:
        walk.step(np.array([gradient]))
    assert abs(walk.moved[0]) <= side.gain * max(map(abs, gradients))
    assert side.gain == pytest.approx(0.3 * sum((1 - 0.3 * proximal) ** past for past in range(len(gradients))))
