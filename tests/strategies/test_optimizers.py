"""Each optimizer equals a slow reference: torch's, or the paper's lines for one coordinate at a time."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cotune.strategies.dp_fedsgd import DPFedSGD
from cotune.strategies.optimizers import Moments, optimizer_of, power
from hypothesis import given
from hypothesis import strategies as st

RATE, MOMENTUM, BETA2, STABILITY = 0.05, 0.9, 0.99, 1e-3
SIZE = 7
GRADIENTS = st.lists(
    st.lists(
        st.floats(-1e3, 1e3).map(lambda number: number if abs(number) > 1e-6 else 0.0), min_size=SIZE, max_size=SIZE
    ),
    min_size=1,
    max_size=6,
)


def walked(name: str, gradients: list[list[float]], momentum: float = MOMENTUM) -> tuple[np.ndarray, Moments]:
    optimizer = optimizer_of(name, momentum, BETA2, STABILITY)
    moments = {moment: np.full(SIZE, value) for moment, value in optimizer.starts.items()}
    here = np.ones(SIZE)
    for step, gradient in enumerate(gradients, 1):
        change, moments = optimizer.change(np.array(gradient), moments, step)
        here = here - RATE * change
    return here, moments


@pytest.mark.parametrize(
    ("name", "momentum", "make"),
    [
        ("sgd", MOMENTUM, lambda at: torch.optim.SGD(at, lr=RATE, momentum=MOMENTUM)),
        ("sgd", 0.0, lambda at: torch.optim.SGD(at, lr=RATE)),
        ("adam", MOMENTUM, lambda at: torch.optim.Adam(at, lr=RATE, betas=(MOMENTUM, BETA2), eps=STABILITY)),
        (
            "adagrad",
            0.0,
            lambda at: torch.optim.Adagrad(at, lr=RATE, initial_accumulator_value=STABILITY**2, eps=STABILITY),
        ),
    ],
    ids=["sgd", "plain sgd", "adam", "adagrad"],
)
@given(gradients=GRADIENTS)
def test_equals_torch(
    name: str,
    momentum: float,
    make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
    gradients: list[list[float]],
) -> None:
    reference = torch.nn.Parameter(torch.ones(SIZE, dtype=torch.float64))
    optimizer = make([reference])
    for gradient in gradients:
        reference.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    found, _ = walked(name, gradients, momentum)
    np.testing.assert_allclose(found, reference.detach().numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["adagrad", "yogi"])
@given(gradients=GRADIENTS)
def test_equals_algorithm_2_of_adaptive_federated_optimization(name: str, gradients: list[list[float]]) -> None:
    """Reddi et al. 2021; there a change is what the clients moved by, minus a gradient here."""
    tau, expected = STABILITY, []
    for column in range(SIZE):
        here, first, second = 1.0, 0.0, tau**2
        for gradient in gradients:
            moved = -gradient[column]
            first = MOMENTUM * first + (1 - MOMENTUM) * moved
            if name == "adagrad":
                second = second + moved**2
            else:
                difference = second - moved**2
                second = second - (1 - BETA2) * moved**2 * (math.copysign(1, difference) if difference else 0)
            here = here + RATE * first / (math.sqrt(second) + tau)
        expected.append(here)
    found, moments = walked(name, gradients)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # A square root of it always exists: Yogi takes off less than it has.
    assert (moments["second"] >= 0).all()


@given(GRADIENTS, st.sampled_from(["sgd", "adam", "adagrad", "yogi"]))
def test_a_coordinate_follows_from_its_own_numbers_alone(gradients: list[list[float]], name: str) -> None:
    """Bit by bit, in any order of the coordinates: nothing is added up over them."""
    order = np.random.default_rng(0).permutation(SIZE)
    here, moments = walked(name, gradients)
    other, theirs = walked(name, [[gradient[place] for place in order] for gradient in gradients])
    np.testing.assert_array_equal(here[order], other)
    for moment, values in moments.items():
        np.testing.assert_array_equal(values[order], theirs[moment])


@given(st.floats(0, 0.9999), st.integers(1, 200))
def test_a_power_is_what_repeated_multiplication_gives(base: float, exponent: int) -> None:
    assert power(base, exponent) == pytest.approx(base**exponent, rel=1e-12)


def test_no_other_optimizer_is_known() -> None:
    with pytest.raises(ValueError, match="choose from sgd, adam, adagrad, yogi"):
        optimizer_of("lion", 0.9, 0.99, 1e-8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": "abc"},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"beta2": 1.0},
        {"averaging": -0.1},
        {"stability": 0.0},
        {"momentum": True},
    ],
    ids=str,
)
def test_a_charter_with_settings_out_of_range_makes_no_strategy(wrong: dict[str, object]) -> None:
    """Before anybody is charged: they come from whoever drafts the charter."""
    good: dict[str, object] = {
        "server_optimizer": "adam",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "beta2": 0.99,
        "stability": 1e-8,
        "averaging": 0.7,
    }
    DPFedSGD(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not a number|not positive|not in \[0, 1\)"):
        DPFedSGD(**{**good, **wrong})  # type: ignore[arg-type]
