"""The settings of each strategy: the mirror of conf/strategy/."""

from typing import Annotated, Literal

from pydantic import Field

from ..strategies.base import Strategy
from ..strategies.derived import class_of, made
from ..strategies.own import Code, installed, located
from .values import Momentum, Positive, Text, Value


class Rule(Value):
    """What every strategy's settings share; `options` are the arguments of the class that `target` names."""

    target: str = Field(alias="_target_")

    @property
    def options(self) -> dict[str, int | float | str | bool]:
        """The strategy's own settings: scalars, as they stand in a charter."""
        return self.model_dump(exclude={"target"})

    @property
    def steps_per_round(self) -> int:
        """Private steps that one round spends."""
        return 1

    @property
    def one_noised_gradient(self) -> bool:
        """See `strategies.base.Strategy`."""
        return bool(class_of(self.target, None).one_noised_gradient)


class _ServerSettings(Rule):
    """What every strategy's server needs: its optimizer, and the average that is released."""

    server_optimizer: Literal["sgd", "adam", "adagrad", "yogi"]
    learning_rate: Positive
    momentum: Momentum
    beta2: Momentum
    stability: Positive
    averaging: Momentum


class DPFedSGDSettings(_ServerSettings):
    """One noised gradient a round. Optimizer and rate, where null, follow from the adapter's form and the noise."""

    server_optimizer: Literal["sgd", "adam", "adagrad", "yogi"] | None  # type: ignore[assignment]
    learning_rate: Positive | None  # type: ignore[assignment]
    target: Literal["cotune.strategies.dp_fedsgd.DPFedSGD"] = Field(alias="_target_")


class RoLoRASettings(_ServerSettings):
    """One noised gradient a round, of B and of A by turns."""

    target: Literal["cotune.strategies.rolora.RoLoRA"] = Field(alias="_target_")


class FFALoRASettings(_ServerSettings):
    """One noised gradient a round, of B alone."""

    target: Literal["cotune.strategies.ffa.FFALoRA"] = Field(alias="_target_")


class FedAvgSettings(_ServerSettings):
    """Local steps, then the mean of the changes."""

    target: Literal["cotune.strategies.fedavg.FedAvg"] = Field(alias="_target_")
    local_steps: Annotated[int, Field(ge=1, le=10_000)]
    local_learning_rate: Positive | None
    local_optimizer: Literal["sgd", "adamw"]
    local_beta1: Momentum
    local_beta2: Annotated[float, Field(gt=0, lt=1)]
    local_stability: Positive
    local_weight_decay: Annotated[float, Field(ge=0)]
    proximal: Annotated[float, Field(ge=0)]

    @property
    def steps_per_round(self) -> int:
        return self.local_steps


class OwnSettings(Value):
    """A class of one's own, `code` as FILE.py:Class or package.module:Class, and the arguments that it is made with."""

    target: Literal["own"] = Field(alias="_target_")
    code: Text
    settings: dict[str, bool | int | float | str] | None

    @property
    def options(self) -> dict[str, int | float | str | bool]:
        """The strategy's own settings, beside the defaults of its class."""
        return dict(self.settings or {})

    def read(self) -> tuple[str, Code]:
        """The class' name and the file that holds it, as it is now, installed in this process.

        Raises:
            UserError: there is no such file, or it is none that may be a strategy.
        """
        file, name = located(self.code)
        return name, installed(file)

    def strategy(self) -> Strategy:
        """The strategy as these settings make it, of the file as it is now.

        Raises:
            UserError: as `read`, or the settings do not fit the class.
        """
        name, code = self.read()
        return made(name, code.digest, self.options)

    @property
    def steps_per_round(self) -> int:
        """Private steps that one round spends."""
        return self.strategy().steps_per_round

    @property
    def one_noised_gradient(self) -> bool:
        """See `strategies.base.Strategy`."""
        return self.strategy().one_noised_gradient


StrategySettings = Annotated[
    DPFedSGDSettings | RoLoRASettings | FFALoRASettings | FedAvgSettings | OwnSettings,
    Field(discriminator="target"),
]
