"""The probe's closed form against autograd, its sensitivity, whose noise is in a sum, and that it learns."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from cotune.data.units import Units
from cotune.privacy.accounting import epsilon
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import PrivacyTerms
from cotune.simulations import linear_probe
from cotune.simulations.linear_probe import Labelled, clipped_sum, train
from cotune.simulations.probe_arm import centered, probe_terms, server_of
from hypothesis import given, settings
from hypothesis import strategies as st

LABELS, WIDTH = 4, 6


def terms(clip: float = 0.3, records: int = 3, sigma: float = 1.0, enabled: bool = True) -> PrivacyTerms:
    return PrivacyTerms(
        enabled=enabled,
        unit="patient",
        epsilon=8.0 if enabled else 0.0,
        delta=1e-4 if enabled else 0.0,
        noise_multiplier=sigma,
        max_grad_norm=clip,
        sample_rate=1.0,
        records_per_unit=records,
        loss_cap=10.0,
        metrics_weight=0.1,
    )


def data(sizes: list[int], seed: int = 0) -> Labelled:
    draw = np.random.default_rng(seed)
    ends = np.cumsum([0, *sizes])
    rows = tuple(tuple(range(start, stop)) for start, stop in pairwise(ends.tolist()))
    states = draw.standard_normal((ends[-1], WIDTH))
    return Labelled(states, draw.integers(0, LABELS, ends[-1]), Units(tuple(map(str, range(len(sizes)))), rows))


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    clip=st.sampled_from([1e-3, 0.3, 1.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_the_sum_is_that_of_an_autograd_loop(sizes: list[int], clip: float, seed: int) -> None:
    held, agreed = data(sizes, seed), terms(clip)
    weights = np.random.default_rng(seed + 1).standard_normal((LABELS, WIDTH))
    found = clipped_sum(weights, held, agreed, SeededRandomness(seed))
    choose, expected = SeededRandomness(seed), np.zeros(LABELS * WIDTH)
    losses, cut = 0.0, 0
    for own in held.units.rows:
        rows = list(own) if len(own) <= 3 else [own[place] for place in choose.choose(len(own), 3)]
        parameter = torch.tensor(weights, requires_grad=True)
        logits = torch.tensor(held.states[rows]) @ parameter.T
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(held.right[rows]))
        loss.backward()
        assert parameter.grad is not None
        gradient = parameter.grad.numpy().ravel()
        norm = float(np.linalg.norm(gradient))
        expected += gradient * min(1.0, clip / norm)
        losses, cut = losses + min(float(loss.detach()), 10.0) / 10.0, cut + (norm > clip)
    assert found[:-3] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found[-3:] / (0.1 * clip) == pytest.approx([losses, len(sizes), cut])


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=6), scale=st.sampled_from([1.0, 1e4]))
def test_one_unit_moves_the_sum_by_the_sensitivity_at_most(sizes: list[int], scale: float) -> None:
    held, agreed = data(sizes), terms(records=5)
    held = Labelled(scale * held.states, held.right, held.units)
    fewer = Labelled(held.states, held.right, Units(held.units.ids[1:], held.units.rows[1:]))
    weights = np.ones((LABELS, WIDTH))
    both = [clipped_sum(weights, one, agreed, SeededRandomness(0)) for one in (held, fewer)]
    assert np.linalg.norm(both[0] - both[1]) <= agreed.sensitivity * (1 + 1e-9)


def test_every_member_adds_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[float] = []
    monkeypatch.setattr(linear_probe, "noised", lambda total, agreed: added.append(agreed.noise_std) or total)
    members, agreed = [data([1, 2], seed) for seed in range(3)], terms(sigma=2.0)
    train(members, LABELS, agreed, server_of(agreed, 6.0, 3), 5, 6.0, SeededRandomness(0))
    assert added == [agreed.noise_std] * 15


def test_it_learns_without_noise_and_the_average_is_published() -> None:
    draw = np.random.default_rng(0)
    centers = np.eye(LABELS, WIDTH)
    right = draw.integers(0, LABELS, 200)
    states = centered(centers[right] + 0.05 * draw.standard_normal((200, WIDTH)), centers.mean(axis=0))
    rows = Units(tuple(map(str, range(200))), tuple((row,) for row in range(200)))
    agreed = terms(1.0, sigma=0.0, enabled=False)
    weights = train(
        [Labelled(states, right, rows)], LABELS, agreed, server_of(agreed, 200.0, 1), 20, 200.0, SeededRandomness(0)
    )
    assert ((states @ weights.T).argmax(axis=1) == right).mean() > 0.95


def test_the_budget_is_the_federations() -> None:
    agreed = probe_terms(terms(sigma=5.0), 20)
    assert epsilon([agreed.segment(20)], agreed.delta) <= agreed.epsilon
    assert epsilon([agreed.segment(22)], agreed.delta) > agreed.epsilon
    assert not probe_terms(terms(sigma=0.0, enabled=False), 20).enabled


def test_states_are_centered_and_scaled_row_by_row() -> None:
    states = np.array([[3.0, 4.0], [1.0, 1.0]])
    assert centered(states, np.ones(2)) == pytest.approx(np.array([[2, 3], [0, 0]]) / np.array([[math.sqrt(13)], [1]]))
