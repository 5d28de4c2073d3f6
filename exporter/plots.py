"""Plots as PNG files, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.files import write_atomically
from exporter.history import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE_INCHES = (7.0, 4.2)
_DPI = 120


def new_figure(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return an empty figure with one labeled pair of axes, in the style that all our plots share."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure as PNG, atomically. Raises: OutputError."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    write_atomically(path, buffer.getvalue())


def plot_loss_curve(history: Sequence[EpochRecord], path: str | Path, *, title: str = "Loss") -> None:
    """Draw training and validation loss by epoch; the loss axis is logarithmic where all losses allow it.

    Raises: OutputError if ``path`` cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(title, "epoch", "loss")
    curves = [("training", "C0", [(r.epoch, r.train_loss) for r in history])]
    validation = [(r.epoch, r.validation_loss) for r in history if r.validation_loss is not None]
    if validation:
        curves.append(("validation", "C1", validation))
    for label, color, points in curves:
        # A line through one point is invisible, so short histories get markers.
        marker = "o" if len(points) <= 30 else ""
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=3, linewidth=1.4, label=label)
    if all(loss > 0 for _, _, points in curves for _, loss in points):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    save_figure(figure, path)
