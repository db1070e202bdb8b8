"""Directions without text: orthonormal, the same again; the weights' are their singular vectors; FedSVD is FFA."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.adapter.peft_files import LoraSettings
from cotune.errors import UserError
from cotune.training.base import BaseModel
from cotune.training.textless import orthonormal, random_basis, weights_basis
from hypothesis import given, settings
from hypothesis import strategies as st

PATH = "model.layers.2.mlp.down_proj"
CORE = LoraSettings(6, 6.0, ("down_proj",), False, 1, "core")


def test_random_rows_are_orthonormal_and_follow_from_the_seed(make_base: Callable[..., BaseModel]) -> None:
    basis = random_basis(make_base(), CORE, 4, 1)
    given = basis.modules[PATH]
    assert given.outputs is not None
    assert np.allclose(given.inputs @ given.inputs.T, np.eye(6), atol=1e-6)
    assert given.outputs.shape == (16, 4)
    assert random_basis(make_base(), CORE, 4, 1) == basis
    assert random_basis(make_base(), CORE, 4, 2) != basis


@settings(deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 12), scale=st.floats(1e-6, 1e6))
def test_rows_keep_their_space(seed: int, rows: int, scale: float) -> None:
    drawn = scale * np.random.default_rng(seed).normal(size=(rows, 12))
    found = orthonormal(drawn)
    assert np.allclose(found @ found.T, np.eye(rows), atol=1e-12)
    if rows < 11:
        outside = drawn - (drawn @ found.T) @ found
        assert np.abs(outside).max() < 1e-9 * np.abs(drawn).max()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_weights_directions_are_their_singular_vectors(family: str, make_base: Callable[..., BaseModel]) -> None:
    """U^T W V^T is diagonal, with the largest singular values in order."""
    base = make_base(family)
    path, lora = (
        (PATH, CORE) if family == "llama" else ("transformer.h.2.mlp.c_proj", replace(CORE, targets=("c_proj",)))
    )
    given = weights_basis(base, lora).modules[path]
    assert given.outputs is not None
    weight = base.model.get_submodule(path).weight.detach().double().numpy()
    weight = weight if family == "llama" else weight.T
    values = np.linalg.svd(weight, compute_uv=False)[:6]
    assert np.allclose(given.outputs.T @ weight @ given.inputs.T, np.diag(values), atol=1e-5)
    assert weights_basis(make_base(family), lora) == weights_basis(base, lora)
    assert weights_basis(base, replace(lora, form="ffa")).modules[path].outputs is None


def test_more_directions_than_there_are_is_a_sentence(make_base: Callable[..., BaseModel]) -> None:
    for make, rank, what in (
        (lambda lora: random_basis(make_base(), lora, 4, 1), 25, "24 inputs"),
        (lambda lora: weights_basis(make_base(), lora), 17, "16 outputs"),
    ):
        with pytest.raises(
            UserError, match=rf"down_proj has {what}, too few for {rank} directions: set model.lora.rank"
        ):
            make(replace(CORE, rank=rank))


def fed_svd(b: Any, a: Any) -> tuple[Any, Any]:
    """FedSVD's step between rounds (Lee et al. 2025, Algorithm 1): A is the right singular vectors of B A."""
    left, values, right = np.linalg.svd(b @ a, full_matrices=False)
    rank = len(a)
    return left[:, :rank] * values[:rank], right[:rank]


def test_fed_svd_is_ffa_with_orthonormal_rows() -> None:
    """Clipped gradients and noise on the product are the same at every step, by the same noise turned alike."""
    draw = np.random.default_rng(0)
    a = orthonormal(draw.normal(size=(3, 10)))
    plain_b, plain_a = np.zeros((7, 3)), a
    svd_b, svd_a = np.zeros((7, 3)), a
    targets, inputs = draw.normal(size=(20, 7)), draw.normal(size=(20, 10))

    def gradient(b: Any, a: Any) -> Any:
        total = np.zeros_like(b)
        for target, features in zip(targets, inputs, strict=True):
            one = np.outer(np.tanh(b @ a @ features - target), a @ features)
            total += one / max(1.0, np.linalg.norm(one))
        return total

    for _ in range(8):
        noise = draw.normal(size=(7, 3))
        turn = svd_a @ plain_a.T
        plain_b = plain_b - 0.05 * (gradient(plain_b, plain_a) + noise)
        svd_b = svd_b - 0.05 * (gradient(svd_b, svd_a) + noise @ turn.T)
        svd_b, svd_a = fed_svd(svd_b, svd_a)
        assert np.allclose(svd_b @ svd_a, plain_b @ plain_a, atol=1e-12)
        assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-12)
