"""Gradient canaries pass through the product's own step, and show when that step gives away more than it claims.

The mechanism's noise is fresh in every run. A sound one alarms with probability below 1e-6: its bound is asked for at
that confidence, and an excess above 6 has probability 1e-9. The planted faults are far from their thresholds.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.attacks import audits, canaries
from cotune.attacks.audits import audit_gradients
from cotune.attacks.canaries import CanaryTrainer, by_likelihood, by_spread, observe
from cotune.attacks.excess import ALARM, excess, separation, simulated
from cotune.privacy import mechanism
from cotune.privacy.accounting import accounted, calibrate
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import PrivacyTerms
from cotune.training import trainer as trainers
from cotune.training.adapter import initial
from scipy.stats import norm

STEPS, CANARIES, DELTA = 40, 600, 1e-5
SURE = 1 - 1e-6
TERMS = PrivacyTerms(True, "row", 0.5, DELTA, calibrate(0.5, DELTA, 0.2, STEPS), 2.0, 0.2, 4, 10.0, 0.1)
CERTAIN = replace(TERMS.without_noise, sample_rate=1.0)


def test_a_canary_is_one_clip_norm_along_its_own_coordinate() -> None:
    places = np.array([3, 500, 7000])
    trainer = CanaryTrainer(places, TERMS.max_grad_norm, np.random.default_rng(0))
    adapter = initial(trainer.schema, 0)
    ordinary = list(range(canaries.ORDINARY_UNITS))
    both = trainer.clipped_sum(adapter, [*ordinary, *range(16, 19)], CERTAIN, SeededRandomness(0))
    without = trainer.clipped_sum(adapter, ordinary, CERTAIN, SeededRandomness(0))
    alone = trainer.clipped_sum(adapter, [17], CERTAIN, SeededRandomness(0))
    assert without[:-3].any()
    assert np.flatnonzero(alone[:-3]).tolist() == [500]
    assert 0.9999 * TERMS.max_grad_norm < alone[500] <= TERMS.max_grad_norm
    moved = (both - without)[:-3]
    assert np.flatnonzero(np.abs(moved) > 1e-4).tolist() == places.tolist()
    # Its four rows count as one unit, and as one that was clipped.
    assert alone[-2:].tolist() == pytest.approx([0.2, 0.2])


def test_without_noise_and_sampling_every_coin_is_seen() -> None:
    found = observe(CERTAIN, 300, 2, np.random.default_rng(1))
    assert found.seen.shape == (2, 300)
    assert 0 < found.joined.sum() < 300
    # Ordinary units add a little along every coordinate.
    assert (np.abs(found.seen - found.joined) < 0.5).all()


def test_each_step_is_the_product_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling, packing, clipping and noise run inside the trainer: a fault in one of them reaches the audit."""
    calls = dict.fromkeys(("poisson_sample", "pack", "add_clipped", "noised"), 0)

    def counted(name: str) -> Callable[..., Any]:
        right = getattr(trainers, name)

        def call(*given: Any) -> Any:
            calls[name] += 1
            return right(*given)

        return call

    for name in calls:
        monkeypatch.setattr(trainers, name, counted(name))
    # At TERMS' own rate a sample is empty once in three million, and nothing is clipped then.
    observe(replace(TERMS, sample_rate=0.9), 100, 5, np.random.default_rng(2))
    assert calls["poisson_sample"] == calls["noised"] == 5
    assert calls["add_clipped"] >= 5
    assert calls["pack"] >= 5


def test_a_sound_step_passes() -> None:
    found = audit_gradients(TERMS, CANARIES, STEPS, SURE)
    assert found.claimed == accounted([(TERMS.noise_multiplier, 0.2, STEPS)], DELTA).epsilon
    assert found.claimed == pytest.approx(0.5, abs=0.01)
    assert not found.alarm
    assert found.at_least <= found.claimed
    assert found.excess is not None
    assert abs(found.excess) < ALARM


def _quiet(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda size, std: right(size, std / 50)


def _partly(right: Callable[..., Any]) -> Callable[..., Any]:
    def drawn(size: int, std: float) -> Any:
        draws = right(size, std)
        draws[: size // 4] = 0.0
        return draws

    return drawn


def _same(right: Callable[..., Any]) -> Callable[..., Any]:
    kept: dict[int, Any] = {}
    return lambda size, std: kept.setdefault(size, right(size, std))


@pytest.mark.parametrize("fault", [_quiet, _partly, _same], ids=["quiet", "partly", "same"])
def test_a_step_that_gives_away_more_is_caught(fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "gaussian", fault(mechanism.gaussian))
    found = audit_gradients(TERMS, CANARIES, STEPS, 0.95)
    assert found.alarm
    assert found.claimed is not None
    assert found.at_least > found.claimed


def test_noise_of_half_the_size_shows_as_excess() -> None:
    """At a claim of 8, a factor of two is more than 12 standard deviations."""
    sigma = calibrate(8.0, DELTA, 0.1, STEPS)
    terms = replace(TERMS, epsilon=8.0, noise_multiplier=sigma, sample_rate=0.1)
    generator = np.random.default_rng(3)

    def separated(noise: float) -> tuple[float, float]:
        joined, seen = simulated(replace(terms, noise_multiplier=noise), STEPS, generator)
        return separation(by_likelihood(seen[:, :2000], terms), joined[:2000])

    expected = separated(sigma)
    assert excess(separated(sigma / 2), expected) > 2 * ALARM
    assert abs(excess(separated(sigma), expected)) < ALARM


def test_separation_equals_counting_pairs() -> None:
    generator = np.random.default_rng(4)
    joined = generator.random(90) < 0.4
    scores = np.round(generator.standard_normal(90) + joined, 1)  # with ties
    inside, outside = scores[joined], scores[~joined]
    wins = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    variance = wins.mean(1).var(ddof=1) / len(inside) + wins.mean(0).var(ddof=1) / len(outside)
    assert separation(scores, joined) == pytest.approx((wins.mean(), variance))


def test_scores_equal_a_loop() -> None:
    generator = np.random.default_rng(5)
    seen = generator.standard_normal((7, 5))
    spread, rate = TERMS.noise_std / TERMS.max_grad_norm, TERMS.sample_rate
    for canary, score in enumerate(by_likelihood(seen, TERMS)):
        absent = norm.pdf(seen[:, canary], 0, spread)
        present = norm.pdf(seen[:, canary], 1, spread)
        assert score == pytest.approx(np.log((1 - rate) + rate * present / absent).sum())
    # Spread and center of its own: shifting or a common factor on the noise does not blind it.
    assert np.allclose(by_spread(seen + 5, TERMS), by_spread(seen, TERMS))
    assert np.isfinite(by_spread(np.zeros((7, 5)), TERMS)).all()


def test_more_canaries_than_coordinates_are_refused() -> None:
    with pytest.raises(audits.UserError, match="fewer canaries"):
        observe(TERMS, 100_000, 1, np.random.default_rng(0))
