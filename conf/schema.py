"""The composed configuration as frozen values: the mirror of the YAML groups beside this file.

Nothing here has a default: a key that is missing from the YAML is an error, so every default stands in one place. Types
are strict (a quoted number is not a number), unknown keys are refused, and ranges that one key decides alone stand at
that key. What several keys decide together is in `check`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..charter.columns import Columns, Form, Turns
from ..charter.documents import Hex32, Line
from ..data.packages import PinnedPackage
from ..privacy.terms import largest_delta
from ..secagg.plan import least_threshold
from ..secagg.roster import MIN_MEMBERS
from ..strategies.base import Strategy
from ..strategies.derived import class_of, made
from ..strategies.own import Code, installed, located
from ..training.source import LocalModel

ARMS = ("base", "alone", "federated", "personal", "pooled", "pooled_without_privacy", "public", "probe", "tfidf")
Arm = Literal["base", "alone", "federated", "personal", "pooled", "pooled_without_privacy", "public", "probe", "tfidf"]

# As a charter names a federation.
Name = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Place = Annotated[Path, AfterValidator(lambda path: path.expanduser())]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class LoraSettings(_Value):
    """Where LoRA goes, how large it is, and what of it is trained (`training.forms`); null follows from the noise."""

    form: Literal["lora", "ffa", "core"]
    rank: Count | None
    alpha: Positive | None
    targets: Annotated[tuple[Text, ...], Field(min_length=1)]
    rslora: bool


class BasisSettings(_Value):
    """What the frozen directions of the forms ffa and core are made of."""

    source: Literal["public", "self_written", "random", "weights"] | None
    whitening: Annotated[float, Field(ge=0, le=0.5)] | None
    spared: Annotated[float, Field(ge=0, le=0.5)]
    start: Literal["zero", "public"] | None
    vocabulary: Annotated[int, Field(ge=0)]


class ModelSettings(LocalModel):
    """The base model and what of it is trained."""

    revision: Line | None
    gguf_file: Text | None
    package: PinnedPackage | None
    sha256: Hex32 | None
    license: Text | None
    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "float32", "bfloat16"]
    context_length: Annotated[int, Field(ge=8)]
    top_layers: Annotated[int, Field(ge=0)]
    cache_features: bool
    lora: LoraSettings
    basis: BasisSettings

    @property
    def local(self) -> LocalModel:
        """The base model alone, as a node's settings hold it."""
        return LocalModel(**{name: getattr(self, name) for name in LocalModel.model_fields})


class DataSettings(_Value):
    """The corpus and how it is split over organizations."""

    corpus: Literal["icd10", "clauses", "phenotypes", "files", "own"]
    code: Text | None
    task: Literal["labels", "text"]
    package: PinnedPackage | None
    organizations: Count
    rows_per_organization: Count | None
    units_per_organization: Count | None
    dominance: Annotated[float, Field(ge=0, le=1)] | None
    skew: Literal["label", "family"] | None
    test_rows: Count | None
    rows_are_units: bool
    form: Form
    turns: Turns
    columns: Columns
    public_system: Text | None
    files: tuple[Place, ...]
    test_file: Place | None
    validation_file: Place | None
    public_file: Place | None
    public_test: bool

    @property
    def brought(self) -> bool:
        """Whether the records are the user's own, so that nothing of them may lie outside the run's folder."""
        return self.corpus in ("files", "own")


class _Rule(_Value):
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


class _ServerSettings(_Rule):
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


class OwnSettings(_Value):
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

    @property
    def _made(self) -> Strategy:
        name, code = self.read()
        return made(name, code.digest, self.options)

    @property
    def steps_per_round(self) -> int:
        """Private steps that one round spends."""
        return self._made.steps_per_round

    @property
    def one_noised_gradient(self) -> bool:
        """See `strategies.base.Strategy`."""
        return self._made.one_noised_gradient


StrategySettings = Annotated[
    DPFedSGDSettings | RoLoRASettings | FFALoRASettings | FedAvgSettings | OwnSettings,
    Field(discriminator="target"),
]


class PrivacySettings(_Value):
    """The privacy terms before calibration."""

    enabled: bool
    unit: Annotated[str, Field(min_length=1, max_length=64)]
    epsilon: Annotated[float, Field(gt=0, le=1e6)] | None
    delta: Annotated[float, Field(gt=0, lt=1)] | None
    max_grad_norm: Annotated[float, Field(ge=1e-9, le=1e9)]
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    records_per_unit: Count
    loss_cap: Positive
    metrics_weight: Annotated[float, Field(ge=1e-6, le=1e3)]
    mechanism: Literal["gaussian", "skellam"]
    trust: Literal["nobody", "honest_majority"]
    colluders: Annotated[int, Field(ge=0, le=200)]
    dropouts: Annotated[int, Field(ge=0, le=200)]

    def delta_for(self, units: int) -> float:
        """The delta of the run where the largest organization holds `units` units: as set, or 1 / (10 units)."""
        return largest_delta(units) if self.delta is None else self.delta


class SecAggSettings(_Value):
    """Secure aggregation; null is what the number of organizations asks for."""

    suite: Literal["classic", "hybrid"]
    lane_bits: Annotated[int, Field(ge=8, le=32)]
    range_sigmas: Positive
    threshold: Count | None
    min_survivors: Count | None
    deadline_seconds: Positive
    audit_rounds: Annotated[int, Field(ge=1, le=1_000)]
    check_fraction: Annotated[float, Field(gt=0, le=0.25)]
    check_probability: Annotated[float, Field(ge=0.5, le=1)]

    def threshold_for(self, organizations: int) -> int:
        """Shares that open a secret: as set, or the smallest number that two disjoint quorums cannot both reach."""
        return least_threshold(organizations) if self.threshold is None else self.threshold

    def min_survivors_for(self, organizations: int) -> int:
        """Survivors below which a round is aborted: as set, or max(3, threshold)."""
        return max(MIN_MEMBERS, self.threshold_for(organizations)) if self.min_survivors is None else self.min_survivors


class SimulationSettings(_Value):
    """What a run on this machine computes, and with what."""

    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    judge: Literal["test", "validation"] | None
    workers: Count
    threads_per_worker: Count
    object_store_megabytes: Annotated[int, Field(ge=80)]
    evaluate_every: Count
    evaluation_batch_tokens: Count
    open_rounds: Annotated[int, Field(ge=1, le=10_000)] | None
    open_learning_rate: Positive | None
    generate_rows: Annotated[int, Field(ge=0)]
    metrics: Annotated[tuple[Text, ...], Field(max_length=20)]
    examples: Annotated[int, Field(ge=0, le=200)]
    physical_batch_tokens: Count
    existing: Literal["continue", "fresh", "refuse"]


class ChatSettings(_Value):
    """How `cotune chat` answers."""

    new_tokens: Count


class Settings(_Value):
    """One run, whole."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    personal_steps: Annotated[int, Field(ge=0, le=10_000)]
    cache: Place
    run_dir: Place
    model: ModelSettings
    data: DataSettings
    strategy: StrategySettings
    privacy: PrivacySettings
    secagg: SecAggSettings
    simulation: SimulationSettings
    chat: ChatSettings

    @property
    def private_steps(self) -> int:
        """Noised steps on an organization's records, in the federation and at home: what the noise is calibrated to."""
        return self.rounds * self.strategy.steps_per_round + self.personal_steps

    def min_survivors_for(self, organizations: int) -> int:
        """Survivors below which a round is aborted; as many as shared noise needs, where the setting is null."""
        least = self.secagg.min_survivors_for(organizations)
        if self.secagg.min_survivors is not None or self.privacy.trust == "nobody":
            return least
        return max(least, organizations - self.privacy.dropouts)
