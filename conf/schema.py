"""The composed configuration as frozen values: the mirror of the YAML groups beside this file.

Nothing here has a default: a key that is missing from the YAML is an error, so every default stands in one place. Types
are strict (a quoted number is not a number), unknown keys are refused, and ranges that one key decides alone stand at
that key. What several keys decide together is in `check`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..charter.columns import Columns, Form, Turns
from ..charter.documents import Hex32, Line
from ..data.packages import PinnedPackage
from ..privacy.terms import largest_delta
from ..secagg.plan import least_threshold
from ..secagg.roster import MIN_MEMBERS
from ..training.source import LocalModel
from .strategy_settings import StrategySettings
from .values import Count, Positive, Text, Value

ARMS = ("base", "alone", "federated", "personal", "pooled", "pooled_without_privacy", "public", "probe", "tfidf")
Arm = Literal["base", "alone", "federated", "personal", "pooled", "pooled_without_privacy", "public", "probe", "tfidf"]

# As a charter names a federation.
Name = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
Place = Annotated[Path, AfterValidator(lambda path: path.expanduser())]


class LoraSettings(Value):
    """Where LoRA goes, how large it is, and what of it is trained (`training.forms`); null follows from the noise."""

    form: Literal["lora", "ffa", "core"]
    rank: Count | None
    alpha: Positive | None
    targets: Annotated[tuple[Text, ...], Field(min_length=1)]
    rslora: bool


class BasisSettings(Value):
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


class DataSettings(Value):
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


class PrivacySettings(Value):
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


class SecAggSettings(Value):
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


class SimulationSettings(Value):
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


class ChatSettings(Value):
    """How `cotune chat` answers."""

    new_tokens: Count


class Settings(Value):
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
