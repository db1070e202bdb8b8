"""The private step against a slow reference: one autograd pass for each unit, clipped and added in float64."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cotune.errors import UserError
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import PrivacyTerms, decode_metrics
from cotune.training.adapter import LoraSettings, parameters_of, set_flat
from cotune.training.base import BaseModel
from cotune.training.forward import NARROWED
from cotune.training.trainer import Trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

SIZES = [1, 3, 1, 2, 1, 1, 4]
FAMILIES = ["llama", "gpt2", "qwen2", "mistral", "qwen3", "gemma", "granite", "phi3", "gpt_neox"]


def _adapter(trainer: Trainer, scale: float = 0.3) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(11).standard_normal(trainer.schema.dimension)).astype(np.float32)


def _trainer(
    tiny: Any,
    base: BaseModel,
    lora: LoraSettings,
    tokens: int = 60,
    folder: Path | None = None,
    sizes: list[int] = SIZES,
) -> Trainer:
    return Trainer(base, lora, tiny.rows(sum(sizes)), tiny.units(sizes), tokens, folder)


def _loop(trainer: Trainer, adapter: NDArray[np.float32], units: list[int]) -> list[tuple[NDArray[np.float64], float]]:
    """Gradient and loss of each unit by the family's own forward pass, one unpadded row at a time."""
    set_flat(trainer.model, adapter)
    parameters = list(parameters_of(trainer.model).values())
    found = []
    for unit in units:
        losses = []
        for row in trainer.units.rows[unit]:
            example = trainer.examples[row]
            tokens = torch.from_numpy(example.tokens.astype(np.int64))[None]
            logits = trainer.model(input_ids=tokens).logits[0, example.answer_start - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, tokens[0, example.answer_start :]))
        loss = torch.stack(losses).mean()
        gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, parameters)])
        found.append((gradient.double().numpy(), loss.item()))
    return found


def _reference(
    trainer: Trainer, adapter: NDArray[np.float32], units: list[int], terms: PrivacyTerms
) -> NDArray[np.float64]:
    total = np.zeros(trainer.schema.dimension + 3)
    scale = terms.metrics_weight * terms.max_grad_norm
    for gradient, loss in _loop(trainer, adapter, units):
        norm = np.linalg.norm(gradient)
        metrics = [scale * min(loss, terms.loss_cap) / terms.loss_cap, scale, scale * (norm > terms.max_grad_norm)]
        total += np.concatenate([gradient * min(1.0, terms.max_grad_norm / norm), metrics])
    return total


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("top_layers", [0, 2])
def test_the_sum_equals_a_loop_over_units(
    tiny: Any,
    family: str,
    top_layers: int,
    make_base: Callable[..., BaseModel],
    lora: LoraSettings,
    terms: PrivacyTerms,
    tmp_path: Path,
) -> None:
    trainer = _trainer(tiny, make_base(family), replace(lora, top_layers=top_layers), folder=tmp_path)
    adapter, units = _adapter(trainer), list(range(len(SIZES)))
    wide = replace(terms, records_per_unit=9)
    norms = sorted(np.linalg.norm(gradient) for gradient, _ in _loop(trainer, adapter, units))
    wide = replace(wide, max_grad_norm=float(norms[3] + norms[4]) / 2)  # some are clipped, some not
    found = trainer.clipped_sum(adapter, units, wide, SeededRandomness(0))
    expected = _reference(trainer, adapter, units, wide)
    assert np.linalg.norm(found - expected) < 2e-4 * np.linalg.norm(expected)
    assert decode_metrics(found[-3:], wide)["clipped"] == pytest.approx(3 / 7)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_short_cut_through_the_last_layer_is_taken(
    tiny: Any, family: str, make_base: Callable[..., BaseModel], lora: LoraSettings
) -> None:
    """The test above would pass without it; this one says that it is on where it was meant to be."""
    assert _trainer(tiny, make_base(family), lora)._losses.parts == NARROWED[0]


def test_physical_batches_change_nothing_but_the_last_bits(
    tiny: Any, make_base: Callable[..., BaseModel], lora: LoraSettings, terms: PrivacyTerms
) -> None:
    base = make_base()
    sums = []
    for tokens in (1, 12 * 32, 10_000):
        trainer = _trainer(tiny, base, lora, tokens)
        sums.append(
            trainer.clipped_sum(
                _adapter(trainer), [6, 0, 3, 1], replace(terms, records_per_unit=9), SeededRandomness(0)
            )
        )
    assert np.allclose(sums[0], sums[1], atol=2e-6)
    assert np.allclose(sums[0], sums[2], atol=2e-6)
    assert np.linalg.norm(sums[0]) > 0.1


def test_cached_features_change_neither_sum_nor_loss(
    tiny: Any, make_base: Callable[..., BaseModel], lora: LoraSettings, terms: PrivacyTerms, tmp_path: Path
) -> None:
    base, lora = make_base(), replace(lora, top_layers=1)
    cached, full = _trainer(tiny, base, lora, folder=tmp_path), _trainer(tiny, base, lora)
    assert cached._losses._states is not None
    assert full._losses._states is None
    adapter = _adapter(full)
    one = cached.clipped_sum(adapter, range(len(SIZES)), terms, SeededRandomness(3))
    other = full.clipped_sum(adapter, range(len(SIZES)), terms, SeededRandomness(3))
    assert np.allclose(one, other, atol=2e-6)
    assert cached.loss(adapter, range(13)) == pytest.approx(full.loss(adapter, range(13)), rel=1e-5)
    # The base model is whole again afterwards.
    assert len(base.model.model.layers) == 3


@settings(max_examples=25, deadline=None)
@given(norm=st.floats(1e-4, 10.0), scale=st.floats(0.01, 5.0), unit=st.integers(0, len(SIZES) - 1))
def test_one_unit_never_exceeds_the_sensitivity(norm: float, scale: float, unit: int, shared: Any) -> None:
    trainer, terms = shared
    terms = replace(terms, max_grad_norm=norm)
    found = trainer.clipped_sum(_adapter(trainer, scale), [unit], terms, SeededRandomness(0))
    assert np.linalg.norm(found[:-3]) <= norm
    assert np.linalg.norm(found) <= terms.sensitivity


@pytest.fixture(scope="module")
def shared(tiny: Any) -> Any:
    base = BaseModel(tiny.model("llama"), tiny.tokenizer(), "digest", "tokens", "llama")
    trainer = _trainer(tiny, base, LoraSettings(2, 4.0, ("all-linear",), False, 0), 1000)
    return trainer, PrivacyTerms(True, "patient", 8.0, 1e-5, 1.0, 0.5, 0.5, 3, 10.0, 0.1)


def test_noise_has_the_stated_deviation_on_every_coordinate(shared: Any) -> None:
    trainer, terms = shared
    terms = replace(terms, noise_multiplier=2.0, sample_rate=1.0, records_per_unit=9)
    adapter = _adapter(trainer)
    plain = trainer.clipped_sum(adapter, range(len(SIZES)), terms, SeededRandomness(0))
    noise = np.stack([trainer.private_sum(adapter, terms, SeededRandomness(0)) - plain for _ in range(12)])
    std = 2.0 * 0.5 * math.sqrt(1 + 3 * 0.1**2)
    # About 40,000 draws: their deviation strays by 0.4% (one sigma); 3% is eight sigmas.
    assert noise.std() == pytest.approx(std, rel=0.03)
    assert abs(noise.mean()) < 8 * std / math.sqrt(noise.size)
    # Each metric coordinate has its own 12 draws: never constant, never far off.
    assert (noise[:, -3:].std(axis=0) > 0.05 * std).all()
    assert (noise[:, -3:].std(axis=0) < 3 * std).all()
    # Two calls share nothing.
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 8 / math.sqrt(noise.shape[1])


def test_an_empty_sample_is_still_noised(shared: Any) -> None:
    trainer, terms = shared
    found = trainer.private_sum(_adapter(trainer), replace(terms, sample_rate=1e-12), SeededRandomness(0))
    assert found.shape == (trainer.schema.dimension + 3,)
    assert found.std() == pytest.approx(terms.noise_std, rel=0.2)
    assert not trainer.clipped_sum(_adapter(trainer), [], terms, SeededRandomness(0)).any()


def test_without_privacy_there_is_no_noise_but_clipping(shared: Any) -> None:
    trainer, terms = shared
    off = replace(terms.without_noise, sample_rate=1.0, max_grad_norm=1e-3)
    one = trainer.private_sum(_adapter(trainer), off, SeededRandomness(0))
    assert np.array_equal(one, trainer.private_sum(_adapter(trainer), off, SeededRandomness(0)))
    assert 0 < np.linalg.norm(one[:-3]) <= 1e-3 * len(SIZES)


def test_no_more_rows_of_a_unit_than_agreed(shared: Any) -> None:
    trainer, terms = shared
    adapter = _adapter(trainer)
    sums = {
        tuple(trainer.clipped_sum(adapter, [6], replace(terms, records_per_unit=1), SeededRandomness(seed))[:5])
        for seed in range(12)
    }
    assert 1 < len(sums) <= 4  # the unit has four rows; each choice is one of them


def test_a_gradient_that_is_not_finite_adds_nothing(shared: Any) -> None:
    trainer, terms = shared
    adapter = _adapter(trainer)
    adapter[0] = np.nan
    found = trainer.clipped_sum(adapter, [0, 1], terms, SeededRandomness(0))
    assert not found[:-3].any()
    assert np.isfinite(found).all()


def test_progress_and_duplicates(shared: Any) -> None:
    trainer, terms = shared
    seen: list[tuple[str, int, int]] = []
    trainer._progress = lambda what, done, of: seen.append((what, done, of))
    trainer.clipped_sum(_adapter(trainer), [0, 1, 2], terms, SeededRandomness(0))
    assert seen[-1] == ("units", 3, 3)
    with pytest.raises(ValueError, match="twice"):
        trainer.clipped_sum(_adapter(trainer), [0, 0], terms, SeededRandomness(0))


def test_no_records_is_a_sentence(tiny: Any, make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    with pytest.raises(UserError, match="no records"):
        _trainer(tiny, make_base(), lora, sizes=[])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("cached", [False, True])
def test_final_states_are_those_of_a_plain_pass(
    tiny: Any, family: str, cached: bool, make_base: Callable[..., BaseModel], lora: LoraSettings, tmp_path: Path
) -> None:
    trainer = _trainer(tiny, make_base(family), replace(lora, top_layers=1), folder=tmp_path if cached else None)
    adapter = _adapter(trainer)
    found = trainer.final_states(adapter)
    for row, example in enumerate(trainer.examples):
        prompt = torch.from_numpy(example.tokens[: example.answer_start].astype(np.int64))[None]
        with torch.no_grad():
            expected = trainer.model(input_ids=prompt, output_hidden_states=True).hidden_states[-1][0, -1]
        assert found[row] == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4)
