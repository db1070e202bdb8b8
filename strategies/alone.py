"""The charter's strategy for somebody who trains alone: one member's noise over one member's units."""

import math
from dataclasses import replace

from ..charter.charter import Charter
from .agreed import nominal_batch, strategy_of
from .base import Strategy
from .dp_fedsgd import DPFedSGD


def alone(charter: Charter, batch: float) -> Strategy:
    """The charter's strategy; under given directions and SGD at the rate at which noise moves it as far.

    The charter's rate fits the noise of all members over the units of all. What is alone has another ratio of the two,
    and would train at a rate that nobody would choose for it.

    Args:
        batch: the public expected batch of who trains, in units.
    """
    strategy = strategy_of(charter)
    if charter.model.form != "lora" and isinstance(strategy, DPFedSGD) and strategy.server_optimizer == "sgd":
        together = sum(nominal_batch(charter, member.name) for member in charter.members)
        ratio = batch / (together / math.sqrt(len(charter.members)))
        return replace(strategy, learning_rate=ratio * strategy.learning_rate)
    return strategy
