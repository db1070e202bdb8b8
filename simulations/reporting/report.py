"""What a run measured, as values, and the file `report.json` that carries them (documented in docs/report.md).

An arm that was not run has no numbers: its accuracy is None, never 0. Writing validates as strictly as reading.
"""

import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from ...evaluation.classification import Classification
from ...evaluation.neutral import Forgetting
from .text_results import TextExample, TextResult

SCHEMA_VERSION: Final = 2
ADJACENCY: Final = "add or remove all records of one unit"
PLAIN_BYTES: Final = 4
VERSIONED: Final = ("cotune", "torch", "transformers", "peft", "opacus", "flwr", "numpy", "scikit-learn")
_STRICT: Final = ConfigDict(extra="forbid", allow_inf_nan=False)

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
Point = tuple[Count, float]


@dataclass(frozen=True)
class Arm:
    """One way to get a model (the base, an organization alone, the federation, ...), measured on the common test set.

    Attributes:
        accuracy: mean over seeds of the accuracy on all test rows, in [0, 1]; None: this arm was not run.
        seeds: the accuracy of each seed; empty exactly where the arm was not run.
        spread: lowest and highest of `seeds`; None with fewer than two.
        worst_organization: accuracy on the rows of the organization that the model serves worst (mean over seeds).
        own_organization: for an organization alone, accuracy on its own rows; for a shared model, the unweighted mean
            over organizations of the accuracy on their rows.
        exact_match: share of the rows tried that greedy generation answers word for word; None: not measured.
        nll: mean negative log likelihood of the right label, in nats; None: not measured.
        by_organization: accuracy on each organization's rows (mean over seeds).
        classification: what label scores say beyond accuracy; None: not measured.
        measures: what metrics of the user's own say, by name.
        text: where answers are free text, whose `accuracy` is the share of exact answers and whose `nll` is a token's.
    """

    __pydantic_config__ = _STRICT

    accuracy: Rate | None = None
    seeds: tuple[Rate, ...] = ()
    spread: tuple[Rate, Rate] | None = None
    worst_organization: Rate | None = None
    own_organization: Rate | None = None
    exact_match: Rate | None = None
    nll: float | None = None
    by_organization: dict[str, Rate] = field(default_factory=dict)
    classification: Classification | None = None
    text: TextResult | None = None
    measures: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.accuracy is None) != (not self.seeds):
            raise ValueError("an arm has an accuracy exactly where it has seeds")
        rates = (self.worst_organization, self.own_organization, self.exact_match, self.nll)
        rest = (*rates, self.spread, self.classification, self.text)
        if self.accuracy is None and (self.by_organization or any(value is not None for value in rest)):
            raise ValueError("an arm that was not run has no numbers")

    @property
    def ran(self) -> bool:
        """Whether the arm was run at all."""
        return self.accuracy is not None


NOT_RUN: Final = Arm()


@dataclass(frozen=True)
class Arms:
    """The arms of issue and README, by name. `base` is the model untouched, `pooled` the forbidden upper bound.

    `public` asks no organization, `probe` trains a linear map on frozen states, `tfidf` is no language model.
    """

    __pydantic_config__ = _STRICT

    base: Arm = NOT_RUN
    alone_mean: Arm = NOT_RUN
    alone_worst: Arm = NOT_RUN
    federated: Arm = NOT_RUN
    personal_mean: Arm = NOT_RUN
    pooled: Arm = NOT_RUN
    pooled_without_privacy: Arm = NOT_RUN
    public: Arm = NOT_RUN
    probe: Arm = NOT_RUN
    tfidf: Arm = NOT_RUN


@dataclass(frozen=True)
class Privacy:
    """What was spent. With `enabled` False nothing was protected, and every epsilon is None.

    Attributes:
        epsilon_max: the largest epsilon of any organization over the whole run.
        delta: the delta of that statement.
        unit: what one unit is, in words ("one patient").
        adjacency: which change of the data the guarantee is about.
        by_organization: epsilon of each organization.
        exposures: with shared noise what the largest epsilon is against whom, one line an adversary; else empty.
    """

    __pydantic_config__ = _STRICT

    enabled: bool
    epsilon_max: Positive | None
    delta: Rate | None
    unit: str
    adjacency: str
    by_organization: dict[str, Positive] = field(default_factory=dict)
    exposures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        highest = max(self.by_organization.values(), default=None)
        if self.enabled and (self.delta is None or highest is None or self.epsilon_max != highest):
            raise ValueError("a private run states delta, and epsilon_max is the largest epsilon of an organization")
        if not self.enabled and (self.epsilon_max is not None or self.delta is not None or self.by_organization):
            raise ValueError("a run without privacy has no epsilon and no delta")


@dataclass(frozen=True)
class Wire:
    """Traffic of the federation, all protocol exchanges included.

    Attributes:
        parameters: trained parameters of the adapter.
        contributions: how many times one organization's contribution entered a sum: organizations x rounds, less
            dropouts.
        bytes_up: bytes uploaded by all organizations together over the run.
        bytes_per_parameter: bytes_up / (contributions x parameters).
        plain_fp32_ratio: bytes_per_parameter / 4, that is against sending the plain fp32 adapter.
    """

    __pydantic_config__ = _STRICT

    parameters: Count
    contributions: Count
    bytes_up: Count
    bytes_per_parameter: Positive
    plain_fp32_ratio: Positive


@dataclass(frozen=True)
class Curves:
    """Points (round, value). `loss` is decoded from noised sums; `epsilon` is the largest of any organization."""

    __pydantic_config__ = _STRICT

    federated: tuple[Point, ...] = ()
    alone_mean: tuple[Point, ...] = ()
    pooled: tuple[Point, ...] = ()
    loss: tuple[Point, ...] = ()
    epsilon: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that one run, or several seeds of it merged, has to say.

    Attributes:
        experiment: name of the experiment ("hospitals").
        seeds: the seeds that were run, in order.
        arms: the common arms.
        alone: each organization alone, by name; empty where this was not run.
        personal: each organization after its personal steps from the federation's adapter; empty where not run.
        privacy: epsilon, delta, unit.
        wire: traffic; None where no federation was run.
        wall_seconds: seconds from start to end, summed over seeds.
        wall_seconds_by_phase: the same by phase ("load", "base", "alone", "federated", ...).
        test_rows: rows of the common test set.
        generation_rows: on how many of them `exact_match` was measured; 0 where on none.
        curves: by round, of the last seed.
        config: the resolved configuration.
        versions: of Python and the packages that matter.
        rounds: that the federation committed, of `config["rounds"]`; 0 where none was run, over seeds the fewest.
        forgetting: neutral text under the base model and the federation; None where no federation was run.
        examples: of free text, of the last seed; empty where the test set is private.
    """

    __pydantic_config__ = _STRICT

    experiment: str
    seeds: tuple[int, ...]
    arms: Arms
    alone: dict[str, Arm]
    privacy: Privacy
    wire: Wire | None
    wall_seconds: Positive
    wall_seconds_by_phase: dict[str, Positive]
    test_rows: Count
    generation_rows: Count
    curves: Curves
    config: dict[str, Any]
    versions: dict[str, str]
    rounds: Count
    personal: dict[str, Arm] = field(default_factory=dict)
    forgetting: Forgetting | None = None
    examples: tuple[TextExample, ...] = ()
    schema_version: Literal[2] = SCHEMA_VERSION


def measured(
    accuracy: float,
    by_organization: Mapping[str, float],
    *,
    own: str | None = None,
    exact_match: float | None = None,
    nll: float | None = None,
    classification: Classification | None = None,
    text: TextResult | None = None,
    measures: Mapping[str, float] | None = None,
) -> Arm:
    """The arm of one seed.

    Args:
        accuracy: on all test rows, in [0, 1].
        by_organization: accuracy on each organization's rows.
        own: name of the organization that trained this model alone; None for a shared model. Without test rows of its
            own, its `own_organization` stays None.
        exact_match: share of greedy generations that are the right answer word for word.
        nll: mean negative log likelihood of the right label, in nats.
        classification: of the label scores.
        text: of free text. measures: of metrics of the user's own.
    """
    groups = dict(by_organization)
    shared = sum(groups.values()) / len(groups) if groups else None
    return Arm(
        accuracy=accuracy,
        seeds=(accuracy,),
        worst_organization=min(groups.values(), default=None),
        own_organization=shared if own is None else groups.get(own),
        exact_match=exact_match,
        nll=nll,
        by_organization=groups,
        classification=classification,
        text=text,
        measures=dict(measures or {}),
    )


def finite_points(values: Iterable[tuple[int, float | None]]) -> tuple[tuple[int, float], ...]:
    """The points of a curve, without those whose value is None or not finite (too much noise to tell, for one)."""
    return tuple((place, value) for place, value in values if value is not None and math.isfinite(value))


def wire(parameters: int, contributions: int, bytes_up: int) -> Wire:
    """Traffic in ratios. Raises ValueError where nothing was sent or nothing trained."""
    if parameters < 1 or contributions < 1:
        raise ValueError("traffic needs at least one parameter and one contribution")
    each = bytes_up / (parameters * contributions)
    return Wire(parameters, contributions, bytes_up, each, each / PLAIN_BYTES)


def private(unit: str, delta: float, by_organization: Mapping[str, float], exposures: tuple[str, ...] = ()) -> Privacy:
    """The privacy section of a run with differential privacy; epsilon by organization."""
    return Privacy(True, max(by_organization.values()), delta, unit, ADJACENCY, dict(by_organization), exposures)


def not_private(unit: str) -> Privacy:
    """The privacy section of a run without differential privacy."""
    return Privacy(False, None, None, unit, ADJACENCY)


def versions(
    packages: tuple[str, ...] = ("cotune", "torch", "transformers", "peft", "opacus", "flwr"),
) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
