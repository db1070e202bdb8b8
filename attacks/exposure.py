"""What an update gives away of the records behind it: the plain one, its sum, the noised ones, and the masked one.

Several organizations hold one record each, of which everything is at stake: the worst case for the attacked and the
best for the attacker. Updates come from the trainer, sums and masks from the secure aggregation.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.units import Units
from ..privacy.sampling import SystemRandomness
from ..privacy.terms import METRICS, PrivacyTerms
from ..strategies.base import step_reach
from ..training.trainer import Trainer
from .inversion import by_energy, by_span, first_layer, recovered, token_inputs
from .secure_round import secure_round
from .subject import LARGEST_RANK, VOCABULARY, lora, random_rows, tiny_base

ORGANIZATIONS: Final = 4
_PROMPT, _ANSWER = 6, 2
# Adapters as after some rounds: at the first one lora_B is zero, and so is the gradient of lora_A.
_SPREAD = 0.05
_SIGMAS = 6.0
# How far below the noise the attack still sees: that it fails is the noise's doing, and not its own.
_FAINT = 100.0
# Plain vectors are encoded finely, so that what hides them is the mask and not the rounding.
_NOISED_LANES, _PLAIN_LANES = 16, 32
_ATTACKS = {"span": by_span, "energy": by_energy}


@dataclass(frozen=True)
class Exposed:
    """One line: what the attacker sees, and the share of tokens that it finds.

    Attributes:
        seen: what. attack: the better of two. records: how many records' tokens are sought at once.
        recovered: mean share of their tokens that are found. chance: what guessing without the update finds.
    """

    seen: str
    attack: str
    records: int
    recovered: float
    chance: float


def exposure(terms: PrivacyTerms, trials: int, seed: int) -> list[Exposed]:
    """Attack every kind of update, `trials` times.

    Args:
        terms: clip norm and noise of the noised updates.
        seed: of records and adapters; noise, masks and keys are fresh.
    """
    torch.set_num_threads(1)
    generator = np.random.default_rng(seed)
    shares: dict[tuple[str, int], list[dict[str, tuple[float, float]]]] = {}
    for _ in range(trials):
        for key, result in _trial(terms, generator).items():
            shares.setdefault(key, []).append(result)
    lines = []
    for (seen, records), results in shares.items():
        means = {attack: np.mean([one[attack] for one in results], axis=0).tolist() for attack in _ATTACKS}
        attack = max(means, key=lambda name: means[name][0])
        lines.append(Exposed(seen, attack, records, *means[attack]))
    return lines


def _trial(
    terms: PrivacyTerms, generator: np.random.Generator
) -> dict[tuple[str, int], dict[str, tuple[float, float]]]:
    rows = random_rows(ORGANIZATIONS, _PROMPT, _ANSWER, generator)
    units = Units(tuple(f"unit {row}" for row in range(len(rows))), tuple((row,) for row in range(len(rows))))
    base = tiny_base(2)
    trainer = Trainer(base, lora(LARGEST_RANK), rows, units, 1024, None)
    adapter = (_SPREAD * generator.standard_normal(trainer.schema.dimension)).astype(np.float32)
    plain, noised, faint = _contributions(trainer, adapter, terms)
    open_plain = secure_round(plain, terms.max_grad_norm, _PLAIN_LANES)
    open_noised = secure_round(noised, step_reach(terms, 1.0, _SIGMAS), _NOISED_LANES)
    # The last token of a row is only ever predicted: it enters no layer.
    tokens = [{int(token) for token in row.tokens[:-1]} for row in rows]
    everybody = set().union(*tokens)
    seen: dict[tuple[str, int], tuple[NDArray[np.float64], set[int]]] = {
        ("one organization's update, plain", 1): (plain[0], tokens[0]),
        ("the sum of plain updates", ORGANIZATIONS): (open_plain.total, everybody),
        ("one organization's update, a 100th of the noise", 1): (faint[0], tokens[0]),
        ("one organization's update, noised", 1): (noised[0], tokens[0]),
        ("the secure sum of noised updates", ORGANIZATIONS): (open_noised.total, everybody),
        ("one organization's plain update, masked", 1): (open_plain.uploads[0], tokens[0]),
        ("one organization's noised update, masked", 1): (open_noised.uploads[0], tokens[0]),
    }
    inputs = token_inputs(base)
    found = {}
    for key, (update, wanted) in seen.items():
        gradient = first_layer(update, trainer.schema)
        chance = len(wanted) / VOCABULARY
        found[key] = {name: (recovered(attack(gradient, inputs), wanted), chance) for name, attack in _ATTACKS.items()}
    return found


def _contributions(
    trainer: Trainer, adapter: NDArray[np.float32], terms: PrivacyTerms
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Each organization's clipped gradient; the same noised by the trainer; and hardly noised: float64 [n, d] each."""
    everybody, randomness = trainer.units, SystemRandomness()
    # Everybody's record is in the step: an attacker who does not know would do worse.
    certain = replace(terms, sample_rate=1.0)
    hardly = replace(certain, noise_multiplier=terms.noise_multiplier / _FAINT)
    plain, noised, faint = [], [], []
    for unit in range(len(everybody.ids)):
        trainer.units = Units(everybody.ids[unit : unit + 1], everybody.rows[unit : unit + 1])
        plain.append(trainer.clipped_sum(adapter, [0], certain, randomness)[: -len(METRICS)])
        noised.append(trainer.private_sum(adapter, certain, randomness)[: -len(METRICS)])
        faint.append(trainer.private_sum(adapter, hardly, randomness)[: -len(METRICS)])
    return np.stack(plain), np.stack(noised), np.stack(faint)
