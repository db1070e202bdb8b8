"""What a sweep found: points, the table of those settings that differ, and the picture."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclass(frozen=True)
class Point:
    """One setting and what it gave on the stand-in's validation rows, or test rows where it has no others.

    Attributes:
        digest: of the settings. settings: all of them.
        dimension: d, trained coordinates. noise_multiplier: of each organization.
        strategy: its settings, with optimizer and rate where they followed from the noise.
        clipped: share of the units' gradients that were clipped; None: lost in noise.
        accuracy: by label, in [0, 1]. exact: share of answers that greedy decoding writes word for word.
        curve: (round, accuracy), of free text (round, perplexity). seconds: wall time.
        text: of free text perplexity and, where answers were generated, chrf and rouge_l; perplexity is None where the
            adapter is no number. None elsewhere.
    """

    digest: str
    settings: dict[str, Any]
    dimension: int
    noise_multiplier: float
    strategy: dict[str, int | float | str | bool]
    clipped: float | None
    accuracy: float
    exact: float
    curve: tuple[tuple[int, float], ...]
    seconds: float
    text: dict[str, float | None] | None = None

    @property
    def score(self) -> float:
        """What points are ordered by: the mean of both, since too high a rate breaks the ends of answers first.

        Of free text chrF, or where no answer was generated -perplexity.
        """
        if self.text is not None:
            perplexity, chrf = self.text["perplexity"], self.text.get("chrf")
            return -math.inf if perplexity is None else -perplexity if chrf is None else chrf
        return (self.accuracy + self.exact) / 2

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Point":
        """The inverse."""
        return cls(**{**fields, "curve": tuple((number, accuracy) for number, accuracy in fields["curve"])})


def table(points: Sequence[Point]) -> Table:
    """The points in their order, with the settings in which they differ."""
    keys = varying(points)
    shown = Table(title="best first", title_justify="left")
    for key in keys:
        shown.add_column(key)
    free = any(point.text is not None for point in points)
    measures = ("perplexity", "chrF", "ROUGE-L") if free else ("accuracy",)
    for name in ("parameters", "noise", "optimizer", "rate", "clipped", *measures, "exact", "seconds"):
        shown.add_column(name, justify="right")
    for point in points:
        flat = _flat(point.settings)
        shown.add_row(
            *(str(flat.get(key)) for key in keys),
            f"{point.dimension:,}",
            f"{point.noise_multiplier:.3f}",
            *_steps(point),
            "-" if point.clipped is None else f"{point.clipped:.0%}",
            *_measures(point, free),
            f"{point.exact:.1%}",
            f"{point.seconds:.0f}",
        )
    return shown


def _steps(point: Point) -> tuple[str, str]:
    """Optimizer and rate of what is tuned: of the steps at home where there are any, else of the server's."""
    side = "local" if "local_learning_rate" in point.strategy else "server"
    rate = point.strategy["local_learning_rate" if side == "local" else "learning_rate"]
    return str(point.strategy[f"{side}_optimizer"]), f"{rate:g}"


def _measures(point: Point, free: bool) -> tuple[str, ...]:
    if not free:
        return (f"{point.accuracy:.1%}",)
    text = point.text or {}
    perplexity, rest = text.get("perplexity"), (text.get("chrf"), text.get("rouge_l"))
    return (
        "-" if perplexity is None else f"{perplexity:.2f}",
        *("-" if value is None else f"{value:.1%}" for value in rest),
    )


def varying(points: Sequence[Point]) -> list[str]:
    """The keys whose values differ between points, in the settings' order."""
    flats = [_flat(point.settings) for point in points]
    keys = list(dict.fromkeys(key for flat in flats for key in flat if key.split(".")[0] not in ("name", "run_dir")))
    return [key for key in keys if len({str(flat.get(key)) for flat in flats}) > 1]


def chart(points: Sequence[Point], path: Path) -> None:
    """Accuracy and exact answers against each numeric setting that differs."""
    keys = [key for key in varying(points) if all(_is_number(_flat(point.settings).get(key)) for point in points)]
    if not keys:
        return
    figure, axes = plt.subplots(1, len(keys), figsize=(5 * len(keys), 4), squeeze=False)
    for axis, key in zip(axes[0], keys, strict=True):
        values = [float(_flat(point.settings)[key]) for point in points]
        if any(point.text is None for point in points):
            axis.scatter(values, [100 * point.accuracy for point in points], label="accuracy")
        elif all((point.text or {}).get("chrf") is not None for point in points):
            axis.scatter(values, [100 * ((point.text or {})["chrf"] or 0.0) for point in points], label="chrF")
        axis.scatter(values, [100 * point.exact for point in points], marker="x", label="exact answer")
        axis.set_xlabel(key)
        axis.set_ylabel("%")
        if min(values) > 0 and max(values) / min(values) > 10:
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
