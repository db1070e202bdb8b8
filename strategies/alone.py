"""The charter's strategy for somebody who trains alone: one member's noise over one member's units."""

import math
from dataclasses import replace
from typing import Final, TypeGuard

from ..charter.charter import Charter
from .base import Strategy
from .derived import nominal_batch, schema_of, strategy_of
from .dp_fedsgd import DPFedSGD

# Chosen on the validation rows of the hospitals (24 tokens) and the law firms (45).
_TOKENS_TO_NOISE: Final = 11.0
# B moves all tokens: as for a core of so many, which is not tuned on any rows.
_TOKENS_OF_B: Final = 44


def least_noise(form: str, tokens: int) -> float:
    """The noise multiplier below which a rate that follows from the noise no longer grows.

    At little noise what limits the rate is not the noise but the ends of answers, which break first, the sooner the
    more tokens answers are made of.

    Args:
        form: of the adapter. tokens: whose logits a core moves.
    """
    return max(1.0, (_TOKENS_OF_B if form == "ffa" else tokens) / _TOKENS_TO_NOISE)


def scales(strategy: Strategy, charter: Charter) -> TypeGuard[DPFedSGD]:
    """Whether a rate can be carried over to another ratio of noise and units: plain SGD on numbers of one scale."""
    return (
        charter.model.form != "lora"
        and isinstance(strategy, DPFedSGD)
        and strategy.one_noised_gradient
        and strategy.server_optimizer == "sgd"
    )


def own_gradients(charter: Charter, strategy: Strategy) -> bool:
    """Whether what a member contributes is a gradient under all of its own noise that can be stepped along again."""
    if not charter.privacy.enabled or charter.privacy.shares is not None or not scales(strategy, charter):
        return False
    schema = schema_of(charter)
    return strategy.turns == 1 and strategy.trained(schema, 0).size == schema.dimension


def alone(charter: Charter, batch: float, tokens: int) -> Strategy:
    """The charter's strategy; under given directions and SGD at the rate at which noise moves it as far.

    The charter's rate fits the noise of all members over the units of all. What is alone has another ratio of the two,
    and would train at a rate that nobody would choose for it; but its rate ends where the federation's would, see
    `least_noise`.

    Args:
        batch: the public expected batch of who trains, in units.
        tokens: whose logits a core moves.
    """
    strategy = strategy_of(charter)
    if scales(strategy, charter):
        together = sum(nominal_batch(charter, member.name) for member in charter.members)
        ratio = batch / (together / math.sqrt(len(charter.members)))
        least, privacy = least_noise(charter.model.form, tokens), charter.privacy
        # Where the federation's rate ends, over its own: with shared noise a member adds less than one alone must.
        most = max(least, privacy.own_multiplier) / least
        ratio *= max(least, privacy.own_multiplier) / max(least, privacy.noise_multiplier)
        return replace(strategy, learning_rate=min(ratio, most) * strategy.learning_rate)
    return strategy
