"""The arm of the linear probe: the base model's last hidden states, and nothing of the model trained.

States are seen as they differ: less the mean of public rows' states, each scaled to norm 1. Neither looks at a private
row: the mean is public, and the scale is a function of the row itself. Without public rows nothing is subtracted.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from ..conf.schema import Settings
from ..data.corpora.corpus import Corpus
from ..data.records import Record
from ..data.units import group
from ..evaluation.labels import right_columns, scores_of
from ..privacy.accounting import calibrate
from ..privacy.sampling import SystemRandomness
from ..privacy.terms import PrivacyTerms
from ..strategies.server_side import ServerSide
from ..training.adapter import untouched
from .consortium import Consortium, everything
from .linear_probe import Labelled, Numbers, train
from .progress import Advance
from .reporting.label_results import label_result
from .states import states_folder, trainer_of

# The rule of a core (`rates`): states have norm 1, so a round's noise on the weights moves each logit by so much. The
# step was chosen among 0.05, 0.1, 0.2 and 0.4 on the hospitals' validation rows of seed 1 at epsilon 8, 3 and 1. The
# gradient of one row is sqrt(2) long at most.
_CLIP = 1.0
_NOISE_STEP = 0.05
_LEAST_NOISE = 4.0
_MOMENTUM, _AVERAGING = 0.9, 0.7


def probe_result(
    settings: Settings, own: Path, consortium: Consortium, corpus: Corpus, going_on: Advance
) -> dict[str, Any]:
    """Train the probe on all organizations' rows as the federation would, and score the test rows.

    Args:
        own: the run's folder. going_on: called while states are computed; what it raises ends that.
    """
    folder = states_folder(settings, own)

    def states(records: Sequence[Record]) -> Numbers:
        """Of the untouched base model, float64 [n, hidden]."""
        trainer = trainer_of(settings, consortium.base, consortium.lora, records, folder, going_on)
        return trainer.final_states(untouched(trainer.model)).astype(np.float64)

    mean = states(corpus.public).mean(axis=0) if corpus.public else 0.0
    every, members = centered(states(everything(corpus)), mean), []
    for records in corpus.organizations.values():
        mine, every = every[: len(records)], every[len(records) :]
        members.append(Labelled(mine, right_columns(records, corpus.labels), group(records)))
    charter = consortium.charter
    terms = probe_terms(charter.privacy, charter.rounds)
    batch = float(sum(member.nominal_units for member in charter.members))
    server = server_of(terms, batch, len(members))
    weights = train(members, len(corpus.labels), terms, server, charter.rounds, batch, SystemRandomness())
    scores = log_softmax(centered(states(corpus.test), mean) @ weights.T, axis=1)
    groups, right = [record.group for record in corpus.test], right_columns(corpus.test, corpus.labels)
    return label_result(scores_of(scores, right, groups, corpus.labels), corpus)


def centered(states: Numbers, mean: Numbers | float) -> Numbers:
    """Less the mean, each row of norm 1; a row that is the mean stays zero."""
    moved = states - mean
    norms = np.linalg.norm(moved, axis=1, keepdims=True)
    found: Numbers = moved / np.where(norms > 0, norms, 1.0)
    return found


def probe_terms(agreed: PrivacyTerms, rounds: int) -> PrivacyTerms:
    """The federation's budget, spent by as many rounds in which every unit joins, with Gaussian noise.

    Metrics travel with the gradient as they do there, so the noise is that of any contribution. Without privacy there
    is none.
    """
    budget = replace(agreed, mechanism="gaussian", grid_step=0.0, dimension=0, sample_rate=1.0, max_grad_norm=_CLIP)
    if not agreed.enabled:
        return budget
    return replace(budget, noise_multiplier=calibrate(agreed.epsilon, agreed.delta, 1.0, rounds))


def server_of(terms: PrivacyTerms, batch: float, members: int) -> ServerSide:
    """SGD with momentum, at the rate at which one round's noise moves every weight by as much.

    Args:
        batch: units that all members declare. members: how many add noise.
    """
    noise = max(_LEAST_NOISE, terms.own_multiplier) * terms.sensitivity * math.sqrt(members)
    return ServerSide("sgd", _NOISE_STEP * batch / noise, _MOMENTUM, 0.999, 1e-8, _AVERAGING)
