"""A part of the adapter: what is taken out of a vector and put back, and the private step on it alone."""

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from cotune.adapter.part import Part, side, whole
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import METRICS, PrivacyTerms, decode_metrics
from cotune.training.adapter import LoraSettings
from cotune.training.base import BaseModel
from cotune.training.trainer import Trainer
from hypothesis import given
from hypothesis import strategies as st

SIZES = [1, 2, 1, 1, 3]
SIDES: tuple[Literal["A", "B"], ...] = ("A", "B")


@given(st.sets(st.integers(0, 39), min_size=2, max_size=20), st.integers(0, 2**32 - 1))
def test_put_and_of_are_those_of_an_array_of_places(ends: set[int], seed: int) -> None:
    cuts = sorted(ends)[: len(ends) // 2 * 2]
    part = Part(tuple(zip(cuts[::2], cuts[1::2], strict=True)))
    places = np.concatenate([np.arange(start, stop) for start, stop in part.runs])
    rng = np.random.default_rng(seed)
    vector, values = rng.normal(size=40).astype(np.float32), rng.normal(size=part.size)
    expected = vector.copy()
    expected[places] = values
    before = vector.copy()
    np.testing.assert_array_equal(part.put(vector, values), expected)
    np.testing.assert_array_equal(part.of(vector), vector[places])
    np.testing.assert_array_equal(vector, before)
    assert part.put(vector, values).dtype == np.float32
    assert part.size == len(places)


@pytest.mark.parametrize(
    "runs", [(), ((3, 3),), ((4, 2),), ((0, 4), (2, 6)), ((4, 6), (0, 2)), ((-1, 2),), ((0, 2), (2, 4))]
)
def test_runs_that_are_none(runs: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="a part of the runs"):
        Part(runs)


def test_values_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="for a part of 3"):
        Part(((0, 3),)).put(np.zeros(5), np.zeros(1))


@pytest.fixture(scope="module")
def trainer(tiny: Any) -> Trainer:
    base = BaseModel(tiny.model("llama"), tiny.tokenizer(), "digest", "tokens", "llama")
    settings = LoraSettings(2, 4.0, ("all-linear",), False, 0)
    return Trainer(base, settings, tiny.rows(sum(SIZES)), tiny.units(SIZES), 60, None)


@pytest.fixture
def adapter(trainer: Trainer) -> np.ndarray:
    return (0.3 * np.random.default_rng(11).standard_normal(trainer.schema.dimension)).astype(np.float32)


def test_the_sides_are_all_of_the_adapter(trainer: Trainer) -> None:
    marks = np.zeros(trainer.schema.dimension)
    for which in SIDES:
        part = side(trainer.schema, which)
        marks = part.put(marks, part.of(marks) + 1)
    np.testing.assert_array_equal(marks, 1)
    assert whole(trainer.schema).size == trainer.schema.dimension


@pytest.mark.parametrize("which", SIDES)
def test_units_are_clipped_over_the_part_alone(
    trainer: Trainer, adapter: np.ndarray, terms: PrivacyTerms, which: Literal["A", "B"]
) -> None:
    part, everybody = side(trainer.schema, which), range(len(SIZES))
    free = replace(terms, max_grad_norm=100.0, records_per_unit=9)
    each = [trainer.clipped_sum(adapter, [unit], free, SeededRandomness(0)) for unit in everybody]
    gradients = [part.of(one[: -len(METRICS)]) for one in each]
    norms = sorted(float(np.linalg.norm(gradient)) for gradient in gradients)
    clip = (norms[1] + norms[2]) / 2  # three are clipped, two not
    found = trainer.clipped_sum(adapter, everybody, replace(free, max_grad_norm=clip), SeededRandomness(0), part)
    expected = sum(gradient * min(1.0, clip / np.linalg.norm(gradient)) for gradient in gradients)
    assert np.linalg.norm(found[: -len(METRICS)] - expected) < 1e-4 * np.linalg.norm(expected)
    metrics = decode_metrics(found[-len(METRICS) :], replace(free, max_grad_norm=clip))
    assert metrics["clipped"] == pytest.approx(3 / 5)


def test_the_whole_as_a_part_is_no_part(trainer: Trainer, adapter: np.ndarray, terms: PrivacyTerms) -> None:
    everybody = range(len(SIZES))
    sums = [
        trainer.clipped_sum(adapter, everybody, terms, SeededRandomness(3), part)
        for part in (None, whole(trainer.schema))
    ]
    np.testing.assert_array_equal(*sums)


@pytest.mark.parametrize("which", SIDES)
def test_the_noise_of_a_part_is_that_of_the_terms(
    trainer: Trainer, adapter: np.ndarray, terms: PrivacyTerms, which: Literal["A", "B"]
) -> None:
    part = side(trainer.schema, which)
    sure = replace(terms, sample_rate=1.0, records_per_unit=9)
    plain = trainer.clipped_sum(adapter, range(len(SIZES)), sure, SeededRandomness(0), part)
    noise = np.stack([trainer.private_sum(adapter, sure, SeededRandomness(0), part) - plain for _ in range(20)])
    assert noise.shape == (20, part.size + len(METRICS))
    # Some 20,000 draws: their deviation strays by 0.5% (one sigma).
    assert noise.std() == pytest.approx(sure.noise_multiplier * sure.sensitivity, rel=0.04)
    assert (noise[:, -len(METRICS) :].std(axis=0) > 0.2 * sure.noise_std).all()
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 8 / math.sqrt(noise.shape[1])


def test_what_is_not_finite_outside_of_the_part_drops_nobody(
    trainer: Trainer, adapter: np.ndarray, terms: PrivacyTerms, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, part = trainer._unit_gradients, side(trainer.schema, "B")
    outside = torch.from_numpy(part.put(np.full(trainer.schema.dimension, np.inf, np.float32), np.zeros(part.size)))

    def spoiled(units: Any) -> Any:
        gradients, losses = real(units)
        return gradients + outside, losses

    expected = trainer.clipped_sum(adapter, [0, 1], terms, SeededRandomness(0), part)
    monkeypatch.setattr(trainer, "_unit_gradients", spoiled)
    np.testing.assert_array_equal(trainer.clipped_sum(adapter, [0, 1], terms, SeededRandomness(0), part), expected)
    assert trainer.dropped == 0
    trainer.clipped_sum(adapter, [0, 1], terms, SeededRandomness(0))
    assert trainer.dropped == 2
