"""Privacy terms, the sensitivity of a contribution, and the metrics inside it."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.privacy.terms import METRICS, PrivacyTerms, decode_metrics, encode_metrics
from hypothesis import given
from hypothesis import strategies as st

TERMS = PrivacyTerms(
    enabled=True,
    unit="patient",
    epsilon=8.0,
    delta=1e-5,
    noise_multiplier=0.9,
    max_grad_norm=1.5,
    sample_rate=0.25,
    records_per_unit=4,
    loss_cap=10.0,
    metrics_weight=0.1,
)

units = st.lists(st.tuples(st.floats(-5, 1e9) | st.sampled_from([math.nan, math.inf]), st.booleans()), min_size=1)


@given(batch=units, weight=st.floats(1e-3, 10), cap=st.floats(0.1, 100), norm=st.floats(1e-3, 1e3))
def test_no_unit_exceeds_the_sensitivity(
    batch: list[tuple[float, bool]], weight: float, cap: float, norm: float
) -> None:
    terms = replace(TERMS, metrics_weight=weight, loss_cap=cap, max_grad_norm=norm)
    rows = encode_metrics(np.array([loss for loss, _ in batch]), np.array([flag for _, flag in batch]), terms)
    assert rows.shape == (len(batch), len(METRICS))
    # With a gradient of the largest norm beside them.
    assert (np.sqrt(norm**2 + (rows**2).sum(axis=1)) <= terms.sensitivity * (1 + 1e-12)).all()


@given(batch=st.lists(st.tuples(st.floats(0, 20), st.booleans()), min_size=1, max_size=30))
def test_decoding_a_sum_gives_the_means(batch: list[tuple[float, bool]]) -> None:
    losses, flags = np.array([loss for loss, _ in batch]), np.array([flag for _, flag in batch])
    decoded = decode_metrics(encode_metrics(losses, flags, TERMS).sum(axis=0), TERMS)
    assert decoded["units"] == pytest.approx(len(batch))
    assert decoded["loss"] == pytest.approx(np.minimum(losses, 10.0).mean(), abs=1e-9)
    assert decoded["clipped"] == pytest.approx(flags.mean(), abs=1e-9)
    assert tuple(decoded) == METRICS


@given(noisy=st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_noise_never_decodes_to_an_impossible_mean(noisy: list[float]) -> None:
    decoded = decode_metrics(np.array(noisy), TERMS)
    if decoded["units"] < 1:
        assert math.isnan(decoded["loss"])
        assert math.isnan(decoded["clipped"])
    else:
        assert 0 <= decoded["loss"] <= TERMS.loss_cap
        assert 0 <= decoded["clipped"] <= 1


def test_a_loss_that_is_not_a_number_counts_as_the_cap() -> None:
    rows = encode_metrics(np.array([math.nan, 10.0]), np.array([True, True]), TERMS)
    assert rows[0].tolist() == rows[1].tolist()


def test_noise_follows_the_sensitivity() -> None:
    assert TERMS.sensitivity == pytest.approx(1.5 * math.sqrt(1.03))
    assert TERMS.noise_std == pytest.approx(0.9 * 1.5 * math.sqrt(1.03))
    assert TERMS.without_noise.noise_std == 0.0


@pytest.mark.parametrize("number", ["epsilon", "delta", "noise_multiplier"])
def test_terms_without_privacy_promise_nothing(number: str) -> None:
    """A charter that disables privacy must not hold a number that reads as a bound."""
    free = TERMS.without_noise
    assert (free.enabled, free.epsilon, free.delta) == (False, 0.0, 0.0)
    with pytest.raises(UserError, match=rf"privacy\.{number}.*0 where privacy is disabled"):
        replace(free, **{number: 0.5})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", math.inf),
        ("delta", 0.0),
        ("delta", 1.0),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", math.nan),
        ("max_grad_norm", 0.0),
        ("max_grad_norm", 1e-10),
        ("max_grad_norm", 1e10),
        ("max_grad_norm", math.nan),
        ("sample_rate", 0.0),
        ("sample_rate", 1.5),
        ("records_per_unit", 0),
        ("loss_cap", -1.0),
        ("metrics_weight", 0.0),
    ],
)
def test_terms_out_of_range_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"privacy.{field} is"):
        replace(TERMS, **{field: value})


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        decode_metrics(np.zeros(4), TERMS)
