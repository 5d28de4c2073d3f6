"""The heat map and the roofline as PNG. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from exporter.bench.measure.ceilings import Ceilings
from exporter.bench.measure.cells import runs_on
from exporter.bench.measure.grid import CellResult
from exporter.bench.measure.runner import Bench
from exporter.bench.show.svg import COLORS, by_dtype_and_threads, ratio_color
from exporter.bench.show.tables import format_number
from exporter.training.curves import new_figure, save_figure

RATIO_NAME = "ratios.png"
_CELL_INCHES = (0.72, 0.3)


def write_pictures(bench: Bench, folder: Path) -> list[Path]:
    """Write the ratios to the best peer, and a roofline for each number of threads. Raises: OutputError."""
    results = list(bench.cells.values())
    if not results:
        return []
    written = [folder / RATIO_NAME]
    save_figure(_heat_maps(results), written[0])
    for threads in sorted({r.cell.threads for r in results}):
        if bench.ceilings is not None:
            written.append(folder / f"roofline_{threads}.png")
            save_figure(_roofline(results, bench.ceilings, threads), written[-1])
    return written


def _heat_maps(results: list[CellResult]) -> Figure:
    groups = by_dtype_and_threads(results)
    threads = list(dict.fromkeys(t for _, t in groups))
    dtypes = list(dict.fromkeys(d for d, _ in groups))
    shapes = list(dict.fromkeys((r.cell.K, r.cell.N) for r in results))
    sizes = list(dict.fromkeys(r.cell.M for r in results))
    width = (1 + len(shapes)) * _CELL_INCHES[0] * len(threads)
    figure = Figure(figsize=(width + 0.5, (3 + len(sizes)) * _CELL_INCHES[1] * len(dtypes)), layout="constrained")
    grid = figure.subplots(len(dtypes), len(threads), squeeze=False)
    for (dtype, count), members in groups.items():
        axes = grid[dtypes.index(dtype)][threads.index(count)]
        image = np.ones((len(sizes), len(shapes), 3))
        for r in members:
            ratio = r.ratio(r.best_peer)
            row, column = sizes.index(r.cell.M), shapes.index((r.cell.K, r.cell.N))
            if ratio is not None:
                image[row, column] = to_rgb(ratio_color(ratio))
            axes.text(column, row, format_number(ratio), ha="center", va="center", fontsize=7)
        axes.imshow(image, aspect="auto")
        axes.set_xticks(range(len(shapes)), [f"{k}x{n}" for k, n in shapes], fontsize=6)
        axes.set_yticks(range(len(sizes)), [str(size) for size in sizes], fontsize=7)
        axes.set_title(f"{dtype}, {runs_on(count)}", fontsize=9)
    figure.suptitle("time of the best peer / ours, by M and K x N", fontsize=10)
    return figure


def _roofline(results: list[CellResult], ceilings: Ceilings, threads: int) -> Figure:
    title = f"Roofline, {runs_on(threads)}"
    figure, axes = new_figure(title, "floating-point operations per byte", "GFLOP/s")
    points = [(r.cell.dtype, r.flops / r.nbytes, r.flops / r.ours / 1e9) for r in results
              if r.ours and r.cell.threads == threads]  # fmt: skip
    rates = {dtype: row[threads] / 1e9 for dtype, row in ceilings.flops.items()}
    low = min((intensity for _, intensity, _ in points), default=0.1)
    high = max([100.0, *(intensity for _, intensity, _ in points)])
    for level, row in ceilings.bandwidth.items():
        speed = row[threads] / 1e9
        ends = [low, max(rates.values()) / speed]
        axes.plot(ends, [e * speed for e in ends], color="0.4", linewidth=1)
        axes.annotate(
            f"{level} {speed:.0f} GB/s", (low, low * speed), fontsize=7, xytext=(4, 6), textcoords="offset points"
        )
    for dtype, rate in rates.items():
        axes.plot([rate / max(row[threads] / 1e9 for row in ceilings.bandwidth.values()), high], [rate, rate],
                  color=COLORS[dtype], linewidth=1)  # fmt: skip
    for dtype in dict.fromkeys(d for d, _, _ in points):
        chosen = [(i, g) for d, i, g in points if d == dtype]
        axes.plot(*zip(*chosen, strict=True), "o", color=COLORS[dtype], markersize=4, alpha=0.7, label=dtype)
    axes.set_xscale("log")
    axes.set_yscale("log")
    if points:
        axes.legend(frameon=False)
    return figure
