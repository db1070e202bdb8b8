"""The picture of where the federation is wrong: which label it writes for which."""

import io
from pathlib import Path

import numpy as np

from ...atomic import write_bytes
from .curves import blank_figure
from .report import Report


def draw(report: Report, path: Path) -> None:
    """Write a PNG, atomically: a row for each right label with its test rows, shares of them by predicted label.

    Nothing is written where no federation was run, or its labels were not scored.

    Raises:
        UserError: matplotlib is not installed.
    """
    found = report.arms.federated.classification
    if found is None:
        return
    counts = np.array(found.confusion, dtype=np.float64)
    shares = counts / np.maximum(1.0, counts.sum(axis=1, keepdims=True))
    side = max(4.5, 2.5 + 0.3 * len(counts))
    figure = blank_figure(side + 1.0, side)
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    names = list(found.by_class)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    rows = [f"{name} ({one.rows})" for name, one in found.by_class.items()]
    axes.set_yticks(range(len(names)), rows, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("right (rows)")
    axes.set_title("Federation: predicted labels by right label")
    figure.colorbar(image, ax=axes, label="% of the right label's rows", shrink=0.8)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_bytes(path, content.getvalue())
