"""Draw plots as PNG files, without a display and without matplotlib's global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.training.history import EpochRecord
from ort_ops.files.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ort_ops.numerics.compare import Comparison

_SIZE_INCHES = (7.0, 4.2)
_DPI = 120
_LEAST_SHOWN, _MOST_SHOWN = 1e-4, 1e4  # of errors in units of their bounds


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
    """Draw training and validation loss by epoch, on a logarithmic axis where all losses are positive.

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


def plot_parity(points: Sequence[tuple[str, Comparison | None]], path: str | Path) -> None:
    """Draw each backend's largest error in units of its bound, on a logarithmic axis with the bound as a line at 1.

    Args:
        points: label and comparison; None for a backend that did not run.
        path: the PNG.

    Raises: OutputError if ``path`` cannot be written.
    """
    taken = [(label, comparison) for label, comparison in points if comparison is not None]
    figure, axes = new_figure("Parity", "largest error / bound (log scale; the least is drawn for no error)", "")
    figure.set_size_inches(_SIZE_INCHES[0], 1.2 + 0.24 * len(taken))
    for position, (_, comparison) in enumerate(taken):
        shown = min(max(comparison.max_in_bounds, _LEAST_SHOWN), _MOST_SHOWN)
        axes.plot(shown, position, "o", color="C0" if comparison.is_within_bound else "C3", markersize=5)
    axes.axvline(1.0, color="C3", linewidth=1.2)
    axes.annotate("bound", (1.0, -0.8), color="C3", xytext=(4, 0), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(
        _LEAST_SHOWN / 2, max(10.0, 2 * max((min(c.max_in_bounds, _MOST_SHOWN) for _, c in taken), default=1))
    )
    axes.set_yticks(range(len(taken)), [label for label, _ in taken], fontsize=8)
    axes.set_ylim(len(taken) - 0.4, -1.2)
    save_figure(figure, path)
