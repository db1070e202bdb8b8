"""Refusals that concern the strategy: what it cannot be combined with, and its own settings."""

from ..errors import UserError
from .schema import Settings
from .strategy_settings import (
    DPFedSGDSettings,
    FedAvgSettings,
    FFALoRASettings,
    OwnSettings,
    RoLoRASettings,
    StrategySettings,
)

# Of the mean change that SGD on the server takes; 1 is plain FedAvg.
_LEAST_SERVER_RATE = 0.1


def check_strategy(settings: Settings) -> None:
    strategy = settings.strategy
    if isinstance(strategy, FedAvgSettings):
        _check_home(strategy)
    if isinstance(strategy, OwnSettings):
        strategy.strategy()  # raises where file, class and settings do not fit
    if settings.personal_steps and not strategy.one_noised_gradient:
        raise UserError(
            f"personal_steps={settings.personal_steps} with {named(strategy)}, which trains at home already",
            "set personal_steps=0, or choose strategy=dp_fedsgd",
        )
    form = settings.model.lora.form
    if isinstance(strategy, RoLoRASettings) and form != "lora":
        raise UserError(
            f"strategy=rolora with model.lora.form={form}: there is no A to train in turn",
            "set model.lora.form=lora (recipe=lora), or strategy=dp_fedsgd",
        )
    if isinstance(strategy, FFALoRASettings) and form == "core":
        raise UserError(
            "strategy=ffa with model.lora.form=core: there is no B to train", "set strategy=dp_fedsgd, or recipe=lora"
        )
    if isinstance(strategy, DPFedSGDSettings) and strategy.learning_rate is None:
        _check_rate(settings)
    if isinstance(strategy, RoLoRASettings) and settings.rounds < 2:
        raise UserError(
            "strategy=rolora with rounds=1: B is trained in the first round and A in the second",
            "set rounds=2 or more, or choose strategy=ffa",
        )


def named(strategy: StrategySettings) -> str:
    """A strategy as it was asked for on the command line."""
    if isinstance(strategy, OwnSettings):
        return f"strategy=own ({strategy.code})"
    return f"strategy={strategy.target.split('.')[-2]}"


def _check_rate(settings: Settings) -> None:
    """A rate that is not set needs a scale for it: that of given directions under SGD, or of Adam's steps."""
    form, optimizer = settings.model.lora.form, settings.strategy.options["server_optimizer"]
    if optimizer not in (None, "adam") and not (optimizer == "sgd" and form != "lora"):
        raise UserError(
            f"strategy.learning_rate is null with strategy.server_optimizer={optimizer} and model.lora.form={form}",
            "set strategy.learning_rate, e.g. to what `cotune tune` finds",
        )


def _check_home(strategy: FedAvgSettings) -> None:
    """What the steps at home make of each other's settings."""
    rate, mu, decay = strategy.local_learning_rate or 1.0, strategy.proximal, strategy.local_weight_decay
    if strategy.local_optimizer == "sgd" and decay > 0:
        raise UserError(
            f"strategy.local_weight_decay={decay:g} with strategy.local_optimizer=sgd, which decays nothing",
            "set strategy.local_weight_decay=0, or strategy.local_optimizer=adamw",
        )
    beta1, beta2 = strategy.local_beta1, strategy.local_beta2
    if beta1 * beta1 > beta2:
        raise UserError(
            f"strategy.local_beta1={beta1:g} with strategy.local_beta2={beta2:g}: gradients would be remembered longer "
            "than their squares, and nothing would bound a step",
            f"set strategy.local_beta2={beta1 * beta1:.3g} or more",
        )
    if rate * decay > 1:
        raise UserError(
            f"strategy.local_weight_decay={decay:g} at strategy.local_learning_rate={rate:g} takes more than a weight",
            f"set strategy.local_weight_decay={1 / rate:g} or less",
        )
    if strategy.server_optimizer == "sgd" and strategy.learning_rate < _LEAST_SERVER_RATE:
        # The rate of another strategy, left over by an experiment's preset, would teach nothing and say nothing.
        raise UserError(
            f"strategy.learning_rate={strategy.learning_rate:g} with strategy=fedavg and sgd: of what organizations "
            "learned the server would take so small a fraction",
            f"set strategy.learning_rate=1, or {_LEAST_SERVER_RATE:g} or more",
        )
    if mu > 0 and strategy.local_steps == 1:
        raise UserError(
            f"strategy.proximal={mu:g} with strategy.local_steps=1: one step has nothing to be pulled back from",
            "set strategy.local_steps=2 or more, or strategy.proximal=0",
        )
    if strategy.local_optimizer == "sgd" and rate * mu > 1:
        raise UserError(
            f"strategy.proximal={mu:g} at strategy.local_learning_rate={rate:g} pulls beyond the round's adapter",
            f"set strategy.proximal={1 / rate:g} or less",
        )
