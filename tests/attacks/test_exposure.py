"""Gradient inversion finds every token of a plain update, and none of a noised or masked one beyond chance."""

import numpy as np
import pytest
from cotune.attacks.exposure import exposure
from cotune.attacks.inversion import by_energy, by_span, recovered
from cotune.attacks.secure_round import secure_round
from cotune.privacy.terms import PrivacyTerms

TERMS = PrivacyTerms(True, "row", 8.0, 1.1e-4, 1.045, 1.0, 0.3, 4, 10.0, 0.1)


def unit_rows(count: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_span_holds_what_went_into_it_and_nothing_else() -> None:
    inputs = unit_rows(500, 40, 0)
    inside = [3, 77, 410, 499]
    gradient = np.random.default_rng(1).standard_normal((12, 4)) @ inputs[inside]
    shares = by_span(gradient, inputs)
    assert np.flatnonzero(shares > 1 - 1e-9).tolist() == inside
    assert recovered(shares, set(inside)) == 1.0
    assert recovered(-shares, set(inside)) == 0.0
    assert not by_span(np.zeros((12, 40)), inputs).any()


def test_energy_is_a_loop() -> None:
    inputs, gradient = unit_rows(30, 8, 2), np.random.default_rng(3).standard_normal((5, 8))
    expected = [sum(float(row @ token) ** 2 for row in gradient) for token in inputs]
    assert by_energy(gradient, inputs) == pytest.approx(expected)


def test_a_secure_round_opens_the_sum_and_shows_uniform_uploads() -> None:
    vectors = np.random.default_rng(4).uniform(-1, 1, (3, 5000))
    opened = secure_round(vectors, 1.0, 32)
    assert np.allclose(opened.total, vectors.sum(axis=0), atol=1e-6)
    for upload, vector in zip(opened.uploads, vectors, strict=True):
        # Of 5000 pairs; eight standard errors of zero.
        assert abs(np.corrcoef(upload, vector)[0, 1]) < 8 / np.sqrt(5000)


@pytest.mark.slow
def test_noise_and_masks_stop_what_a_plain_update_gives_away() -> None:
    """20 trials of 7 tokens out of 1024: by chance one of 140 is found. A share of 0.15 would need 21 of them, or 83 of
    the 560 of a sum where 15 are expected: probability below 1e-20 for blind guessing."""
    found = {line.seen: line for line in exposure(TERMS, 20, 0)}
    for seen, line in found.items():
        if seen in ("one organization's update, plain", "the sum of plain updates"):
            assert line.recovered > 0.95, line
        elif "a 100th" in seen:
            assert line.recovered > 0.3, line
        else:
            assert line.recovered < 0.15, line
    assert len(found) == 7
