"""What a sweep found: points, the table of those settings that differ, and the picture."""

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
        accuracy: by label, in [0, 1]. exact: share of answers that greedy decoding writes word for word.
        curve: (round, accuracy). seconds: wall time.
    """

    digest: str
    settings: dict[str, Any]
    dimension: int
    noise_multiplier: float
    accuracy: float
    exact: float
    curve: tuple[tuple[int, float], ...]
    seconds: float

    @property
    def score(self) -> float:
        """What points are ordered by: the mean of both, since too high a rate breaks the ends of answers first."""
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
    for name in ("parameters", "noise", "accuracy", "exact", "seconds"):
        shown.add_column(name, justify="right")
    for point in points:
        flat = _flat(point.settings)
        shown.add_row(
            *(str(flat.get(key)) for key in keys),
            f"{point.dimension:,}",
            f"{point.noise_multiplier:.3f}",
            f"{point.accuracy:.1%}",
            f"{point.exact:.1%}",
            f"{point.seconds:.0f}",
        )
    return shown


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
        axis.scatter(values, [100 * point.accuracy for point in points], label="accuracy")
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
