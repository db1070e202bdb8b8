"""A private step of a trainer: units of every size, batches of every size, and the noise on what leaves."""

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cotune.data.template import Example
from cotune.data.units import Units, group
from cotune.errors import UserError
from cotune.privacy.sampling import SeededRandomness, SystemRandomness
from cotune.privacy.terms import PrivacyTerms
from cotune.training import trainer as trainers
from cotune.training.adapter import LoraSettings
from cotune.training.base import BaseModel
from cotune.training.hooks import HookGradients
from cotune.training.per_row import GradientsMissingError
from cotune.training.tiles import Shape
from cotune.training.trainer import Trainer
from numpy.typing import NDArray
from scipy.stats import binomtest, chisquare, kstest

LORA = LoraSettings(2, 4.0, ("all-linear",), False, 0)
TERMS = PrivacyTerms(True, "patient", 8.0, 1e-5, 1.0, 0.5, 1.0, 3, 10.0, 0.1)
FREE = replace(TERMS, max_grad_norm=1e6, records_per_unit=100_000)  # nothing is clipped, no row is left out


def trainer_of(tiny: Any, rows: list[Example], units: Units, tokens: int = 1000, **options: Any) -> Trainer:
    base = BaseModel(tiny.model("llama", num_hidden_layers=1), tiny.tokenizer(), "digest", "tokens", "llama")
    return Trainer(base, LORA, rows, units, tokens, None, **options)


def adapter_of(trainer: Trainer) -> NDArray[np.float32]:
    return (0.3 * np.random.default_rng(11).standard_normal(trainer.schema.dimension)).astype(np.float32)


def close(found: NDArray[np.float64], expected: NDArray[np.float64], tolerance: float = 2e-5) -> bool:
    return bool(np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected))


@pytest.fixture(scope="module")
def small(tiny: Any) -> Trainer:
    return trainer_of(tiny, tiny.rows(13), tiny.units([1, 3, 1, 2, 1, 1, 4]))


def test_both_ways_give_the_same_sum(tiny: Any, small: Trainer) -> None:
    hooks = trainer_of(tiny, tiny.rows(13), tiny.units([1, 3, 1, 2, 1, 1, 4]), hooks=True)
    adapter = adapter_of(small)
    for terms in (TERMS, FREE, replace(TERMS, records_per_unit=1)):
        one, other = (way.clipped_sum(adapter, range(7), terms, SeededRandomness(3)) for way in (small, hooks))
        assert close(one, other)


def test_a_unit_of_ten_thousand_rows(tiny: Any) -> None:
    """As many rows as one patient can have: the mean of all, or of as many as agreed on, clipped once."""
    rows = tiny.rows(50, longest=6)
    many = Units(("heavy", "light"), (tuple(range(1, 10_001)), (0,)))
    trainer = trainer_of(tiny, [rows[0], *(rows[row % 50] for row in range(10_000))], many, tokens=4096)
    adapter = adapter_of(trainer)
    small = trainer_of(tiny, rows, Units(("all",), (tuple(range(50)),)))
    expected = small.clipped_sum(adapter, [0], FREE, SeededRandomness(0))
    assert close(trainer.clipped_sum(adapter, [0], FREE, SeededRandomness(0)), expected, 1e-4)
    # Capped, it costs no more than its cap, and it never counts for more than another unit.
    seen: list[int] = []
    original = trainer._row_gradients

    def watched(rows: Sequence[int], shape: Shape) -> Any:
        seen.extend(rows)
        return original(rows, shape)

    trainer._row_gradients = watched  # type: ignore[method-assign]
    capped = trainer.clipped_sum(adapter, [0, 1], replace(TERMS, records_per_unit=3), SystemRandomness())
    assert len(seen) == 4
    assert len(set(seen)) == 4
    assert np.linalg.norm(capped) <= 2 * TERMS.sensitivity
    assert capped[-2] == pytest.approx(2 * 0.1 * 0.5)  # two units


def test_the_rows_of_a_large_unit_are_drawn_evenly_and_anew(tiny: Any, small: Trainer) -> None:
    unit, rows = 6, small.units.rows[6]
    counts = dict.fromkeys(rows, 0)
    for _ in range(2000):
        chosen = small._rows_of(unit, 3, SystemRandomness())
        assert len(set(chosen)) == 3
        for row in chosen:
            counts[row] += 1
    assert sum(counts.values()) == 6000
    assert chisquare(list(counts.values())).pvalue > 1e-9
    assert small._rows_of(1, 3, SystemRandomness()) == list(small.units.rows[1])


def test_each_unit_has_its_own_rows_and_no_other(tiny: Any) -> None:
    """A unit's sum changes with its own rows only: off by one would show."""
    rows, units, other = tiny.rows(6), tiny.units([2, 1, 3]), tiny.rows(1, seed=99)[0]
    trainer = trainer_of(tiny, rows, units)
    adapter = adapter_of(trainer)
    before = [trainer.clipped_sum(adapter, [unit], FREE, SeededRandomness(0)) for unit in range(3)]
    for changed in range(6):
        others = Trainer(trainer.base, LORA, [*rows[:changed], other, *rows[changed + 1 :]], units, 1000, None)
        after = [others.clipped_sum(adapter, [unit], FREE, SeededRandomness(0)) for unit in range(3)]
        moved = [unit for unit in range(3) if not np.array_equal(after[unit], before[unit])]
        assert moved == [unit for unit in range(3) if changed in units.rows[unit]]


def test_adding_a_unit_moves_the_sum_by_at_most_the_sensitivity(tiny: Any, small: Trainer) -> None:
    adapter = 4 * adapter_of(small)
    terms = replace(TERMS, records_per_unit=9, max_grad_norm=0.05)
    whole = small.clipped_sum(adapter, range(7), terms, SeededRandomness(0))
    for unit in range(7):
        without = small.clipped_sum(adapter, [u for u in range(7) if u != unit], terms, SeededRandomness(0))
        alone = small.clipped_sum(adapter, [unit], terms, SeededRandomness(0))
        assert np.array_equal(whole - without, alone)
        assert np.linalg.norm(alone) <= terms.sensitivity
        assert np.linalg.norm(whole - without) > 0.9 * terms.max_grad_norm  # all are clipped


def test_a_giant_batch_is_a_sum_over_groups_and_tiles(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How units are grouped bounds memory and changes no bit."""
    rows = tiny.rows(120, longest=8)
    units = tiny.units([1] * 60 + [3] * 20)
    adapter, sums, sizes = None, [], []
    for most_bytes in (2**29, 4 * 1000 * 17):
        monkeypatch.setattr(trainers, "_GRADIENT_BYTES", most_bytes)
        trainer = trainer_of(tiny, rows, units, 8 * 32)
        original = trainer._unit_gradients

        def watched(group: Sequence[Sequence[int]], original: Any = original) -> Any:
            sizes.append(len(group))
            return original(group)

        trainer._unit_gradients = watched  # type: ignore[method-assign]
        adapter = adapter_of(trainer) if adapter is None else adapter
        sums.append(trainer.clipped_sum(adapter, range(80), FREE, SeededRandomness(0)))
    assert np.array_equal(sums[0], sums[1])
    most = max(1, 4 * 1000 * 17 // (4 * trainer.schema.dimension))
    assert sizes == [80, *[most] * (80 // most), *([80 % most] if 80 % most else [])]


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_units_join_at_the_agreed_rate(small: Trainer, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[int] = []

    def record(_adapter: Any, units: list[int], *_: Any) -> NDArray[np.float64]:
        joined.extend(units)
        return np.ones(small.schema.dimension + 3)

    monkeypatch.setattr(small, "clipped_sum", record)
    terms = replace(TERMS, sample_rate=rate)
    for _ in range(300):
        small.private_sum(adapter_of(small), terms, SystemRandomness())
    assert binomtest(len(joined), 300 * 7, rate).pvalue > 1e-9
    for unit in range(7):
        assert binomtest(joined.count(unit), 300, rate).pvalue > 1e-9


def test_an_empty_batch_is_noise_and_nothing_else(small: Trainer) -> None:
    rare = replace(TERMS, sample_rate=1e-12, noise_multiplier=3.0)
    draws = np.concatenate([small.private_sum(adapter_of(small), rare, SystemRandomness()) for _ in range(60)])
    assert kstest(draws, "norm", args=(0.0, rare.noise_std)).pvalue > 1e-9
    assert draws.std() == pytest.approx(rare.noise_std, rel=0.05)


def test_noise_is_independent_across_steps_and_layers(small: Trainer) -> None:
    """The layers' segments of one vector, and the same segment in two steps, share nothing."""
    rare = replace(TERMS, sample_rate=1e-12)
    steps = np.stack([small.private_sum(adapter_of(small), rare, SystemRandomness()) for _ in range(200)])
    steps /= rare.noise_std
    parts = [steps[:, where] for where in small.schema.slices]
    for part in parts:  # no layer goes without
        assert part.std() == pytest.approx(1.0, abs=8 / np.sqrt(2 * part.size))
    for one, other in pairwise(parts):
        width = min(one.shape[1], other.shape[1])
        assert abs((one[:, :width] * other[:, :width]).mean()) < 7 / np.sqrt(one[:, :width].size)
    assert abs((steps[1:] * steps[:-1]).mean()) < 7 / np.sqrt(steps[1:].size)
    assert (abs(steps[:, -3:].std(axis=0) - 1) < 8 / np.sqrt(400)).all()


def test_bad_units_are_counted_and_stay_here(small: Trainer) -> None:
    adapter = adapter_of(small)
    small.clipped_sum(adapter, [0, 1], TERMS, SeededRandomness(0))
    assert small.dropped == 0
    adapter[0] = np.nan
    total = small.clipped_sum(adapter, [0, 1, 4], TERMS, SeededRandomness(0))
    assert small.dropped == 3
    assert not total[:-3].any()
    assert total[-1] == pytest.approx(3 * 0.1 * 0.5)


@pytest.mark.parametrize("stops", ["flat buffer", "both"])
def test_what_the_buffer_cannot_do_goes_to_the_hooks(tiny: Any, stops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> None:
        raise GradientsMissingError("no")

    monkeypatch.setattr("cotune.training.flat_buffer._Slot.add", wrong)
    if stops == "flat buffer":
        trainer = trainer_of(tiny, tiny.rows(3), tiny.units([1, 2]))
        assert trainer.way == "hooks"
        assert trainer.clipped_sum(adapter_of(trainer), [0, 1], TERMS, SeededRandomness(0))[:-3].any()
        return
    monkeypatch.setattr(HookGradients, "_collected", wrong)
    with pytest.raises(UserError, match=r"model family 'llama' do not equal a loop over its rows \(hooks\)"):
        trainer_of(tiny, tiny.rows(3), tiny.units([1, 2]))


def _draw(small: Trainer, results: Any) -> None:
    rare = replace(TERMS, sample_rate=1e-12)
    results.put(small.private_sum(adapter_of(small), rare, SystemRandomness()))


def test_a_forked_process_draws_its_own_noise(small: Trainer) -> None:
    rare = replace(TERMS, sample_rate=1e-12)
    small.private_sum(adapter_of(small), rare, SystemRandomness())
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_draw, args=(small, results)) for _ in range(2)]
    for child in children:
        child.start()
    found = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
    found.append(small.private_sum(adapter_of(small), rare, SystemRandomness()))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(found[one], found[other])[0, 1]) < 8 / np.sqrt(len(found[0]))


def test_a_missing_unit_never_reaches_training(tiny: Any) -> None:
    """Files without an id are refused where they are read; should an empty one come by, nothing is grouped by it."""
    rows = [replace(row, unit=unit) for row, unit in zip(tiny.rows(3), ("", "a", " \u200b"), strict=True)]
    with pytest.raises(ValueError, match="a row without a unit id"):
        group(rows)
