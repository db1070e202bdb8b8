"""Multinomial logistic regression on frozen states, trained privately as the federation is: the simplest thing that
could work.

Every unit of every member joins every round. A member sends its units' clipped gradients with noise of its own, in the
form of any contribution (`privacy.terms`); the server sees the sum. The gradient of a unit is a sum of outer products
e x^T of errors and states, so its norm follows from two small matrices of inner products, and nothing of the size of
the weights is made for a single unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from ..adapter.part import Part
from ..data.units import Units
from ..privacy.clipping import clip
from ..privacy.mechanism import noised
from ..privacy.sampling import Randomness
from ..privacy.terms import PrivacyTerms, encode_metrics
from ..strategies.base import split
from ..strategies.server_side import ServerSide

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Labelled:
    """One member's rows.

    Attributes:
        states: float64 [n, h]. right: int64 [n], columns of the right labels. units: which rows are one unit.
    """

    states: Numbers
    right: NDArray[np.int64]
    units: Units


def clipped_sum(weights: Numbers, data: Labelled, terms: PrivacyTerms, choose: Randomness) -> Numbers:
    """Sum over units of their clipped mean gradients and their metrics, without noise.

    Args:
        weights: float64 [m, h], of m labels. terms: clip norm, rows a unit. choose: rows of a unit that has too many.

    Returns:
        float64 [m h + 3]; one unit moves it by at most `terms.sensitivity` in the L2 norm.
    """
    most = terms.records_per_unit
    rows = [
        own if len(own) <= most else tuple(own[place] for place in choose.choose(len(own), most))
        for own in data.units.rows
    ]
    flat = np.array([row for own in rows for row in own], dtype=np.int64)
    owner = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    place = np.concatenate([np.arange(len(own)) for own in rows])
    sizes = np.array([len(own) for own in rows], dtype=np.float64)
    states = data.states[flat]
    logs = log_softmax(states @ weights.T, axis=1)
    own_logs = logs[np.arange(len(flat)), data.right[flat]]
    errors = np.exp(logs)
    errors[np.arange(len(flat)), data.right[flat]] -= 1.0
    errors /= sizes[owner][:, None]

    def within_units(values: Numbers) -> Numbers:
        """Inner products of rows of the same unit, [U, k, k]; zero where a unit has fewer rows."""
        padded = np.zeros((len(rows), int(sizes.max()), values.shape[1]))
        padded[owner, place] = values
        products: Numbers = padded @ padded.transpose(0, 2, 1)
        return products

    squares = (within_units(errors) * within_units(states)).sum(axis=(1, 2))
    clipping = clip(np.sqrt(np.maximum(squares, 0.0)), terms.max_grad_norm)
    gradient = (errors * clipping.coefficients[owner][:, None]).T @ states
    losses = np.bincount(owner, -own_logs) / sizes
    metrics = encode_metrics(losses, clipping.clipped, terms).sum(axis=0)
    return np.concatenate([gradient.ravel(), metrics])


def train(
    members: Sequence[Labelled],
    labels: int,
    terms: PrivacyTerms,
    server: ServerSide,
    rounds: int,
    batch: float,
    choose: Randomness,
) -> Numbers:
    """Train from zero, round by round, on sums to which every member has added its noise.

    Args:
        members: at least one. labels: m. terms: with sample_rate 1, calibrated to `rounds` steps.
        server: optimizer and average. batch: units that the members declare together.

    Returns:
        Weights, float64 [m, h], as they are published.
    """
    width = members[0].states.shape[1]
    weights = np.zeros(labels * width, dtype=np.float32)
    part, state = Part(((0, len(weights)),)), server.start(len(weights))
    for _ in range(rounds):
        at = weights.reshape(labels, width).astype(np.float64)
        sums = [clipped_sum(at, member, terms, choose) for member in members]
        total = np.sum([noised(own, terms) if terms.enabled else own for own in sums], axis=0)
        weights, state = server.stepped(weights, state, part, split(total)[0] / batch)
    return server.published(weights, state).reshape(labels, width).astype(np.float64)
