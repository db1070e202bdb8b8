"""The audits of a configuration, each beside the epsilon that is claimed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ..conf.rates import planned_strategy, strategy_options
from ..conf.schema import Settings
from ..conf.terms import terms as terms_of
from ..errors import UserError
from ..privacy.accounting import accounted
from ..privacy.terms import PrivacyTerms
from ..strategies.base import Strategy
from .bound import best_bound
from .canaries import by_likelihood, by_spread, observe
from .excess import ALARM, excess, separation, simulated
from .subject import LARGEST_RANK, coordinates
from .texts import memorized

_GUESSERS = {"likelihood": by_likelihood, "spread": by_spread}


@dataclass(frozen=True)
class Audit:
    """What one audit proves.

    Attributes:
        audit: which.
        canaries, steps: how many.
        guesser, guesses, right: the best guesser.
        at_least: the lower bound on epsilon at `delta`, with `confidence`.
        claimed: the epsilon that accounting reports for these steps; None for a control without privacy.
        excess: by how many standard deviations the canaries show through more than the claimed mechanism allows; None
            where there is no reference for it.
        alarm: the bound is above the claim, or the excess above 6.
    """

    audit: Literal["gradient canaries", "text canaries", "text canaries, no privacy"]
    canaries: int
    steps: int
    guesser: str
    guesses: int
    right: int
    at_least: float
    confidence: float
    delta: float
    claimed: float | None
    excess: float | None
    alarm: bool


def audit_gradients(terms: PrivacyTerms, canaries: int, steps: int, confidence: float) -> Audit:
    """Audit the private step with gradient canaries.

    Args:
        terms: calibrated for `steps`; the claim is what accounting says of them.
    """
    torch.set_num_threads(1)  # matrices this small are faster so
    generator = np.random.default_rng()
    observed = observe(terms, canaries, steps, generator)
    scores = {name: score(observed.seen, terms) for name, score in _GUESSERS.items()}
    best = best_bound(scores, observed.joined, terms.delta, confidence)
    joined, seen = simulated(terms, steps, generator)
    most = max(
        excess(separation(scores[name], observed.joined), separation(score(seen, terms), joined))
        for name, score in _GUESSERS.items()
    )
    claimed = accounted([terms.segment(steps)], terms.delta).epsilon
    return Audit(
        audit="gradient canaries",
        canaries=canaries,
        steps=steps,
        guesser=best.guesser,
        guesses=best.guesses,
        right=best.right,
        at_least=best.epsilon,
        confidence=confidence,
        delta=terms.delta,
        claimed=claimed,
        excess=most,
        alarm=best.epsilon > claimed or most > ALARM,
    )


def audit_texts(
    terms: PrivacyTerms, strategy: Strategy, canaries: int, rounds: int, confidence: float, control: bool = False
) -> Audit:
    """Audit training with text canaries.

    Args:
        control: train without privacy; what is found is held against the same delta.
    """
    torch.set_num_threads(1)
    trained = terms.without_noise if control else terms
    joined, fell = memorized(trained, strategy, canaries, rounds, np.random.default_rng())
    best = best_bound({"loss": fell}, joined, terms.delta, confidence)
    steps = rounds * strategy.steps_per_round
    claimed = accounted([terms.segment(steps)], terms.delta).epsilon
    return Audit(
        audit="text canaries, no privacy" if control else "text canaries",
        canaries=canaries,
        steps=steps,
        guesser=best.guesser,
        guesses=best.guesses,
        right=best.right,
        at_least=best.epsilon,
        confidence=confidence,
        delta=terms.delta,
        claimed=None if control else claimed,
        excess=None,
        alarm=not control and best.epsilon > claimed,
    )


def audit(settings: Settings, canaries: int, text_canaries: int, confidence: float) -> Iterator[Audit]:
    """The audits of a configuration's privacy terms, one after another: gradients, texts, texts without privacy.

    Args:
        settings: privacy, rounds and strategy; the model is a tiny random one, whatever is configured.
        canaries: for gradients. text_canaries: 0 leaves texts out. confidence: of each bound.

    Raises:
        UserError: privacy is disabled or relies on others' noise, or a number is out of range.
    """
    if not settings.privacy.enabled:
        raise UserError("privacy.enabled=false claims nothing to audit", "choose privacy=dp")
    if settings.privacy.trust != "nobody":
        # A share of the noise is meant to be weaker: its claim is about sums.
        raise UserError("what is audited is an organization's own noise", "choose privacy.trust=nobody")
    if canaries < 20 or 0 < text_canaries < 20:
        raise UserError("fewer than 20 canaries prove nothing", "use more")
    if not 0 < confidence < 1:
        raise UserError(f"a confidence of {confidence:g}", "give a number between 0 and 1")
    terms = terms_of(settings, settings.data.units_per_organization or canaries, coordinates(LARGEST_RANK))
    # The model that is audited is small and trains plain LoRA, whatever the run does.
    options = strategy_options(settings, terms, [settings.data.units_per_organization or canaries], 0, "lora")
    strategy = planned_strategy(settings, options)
    steps = settings.rounds * strategy.steps_per_round
    yield audit_gradients(terms, canaries, steps, confidence)
    if text_canaries:
        yield audit_texts(terms, strategy, text_canaries, settings.rounds, confidence)
        yield audit_texts(terms, strategy, text_canaries, settings.rounds, confidence, control=True)
