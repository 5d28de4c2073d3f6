"""Draw a benchmark with matplotlib: heat maps of a number by cell, and the roofline; as PNG, or as SVG for the page."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from exporter.bench.measure.ceilings import Ceilings
from exporter.bench.measure.cells import OURS, runs_on
from exporter.bench.measure.grid import CellResult
from exporter.bench.measure.runner import Bench
from exporter.bench.show.tables import by_group, format_number, format_time
from exporter.training.curves import new_figure, save_figure

RATIO_NAME = "ratios.png"
COLORS = {"float32": "#2f6f9f", "float64": "#b3261e", "float16": "#2e7d32", "bfloat16": "#8e5bb5"}
_CELL_INCHES = (0.72, 0.3)
_SVG = "{http://www.w3.org/2000/svg}"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mylinear",
}  # text stays text; the same drawing has the same bytes
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

Value = Callable[[CellResult], float | None]
Color = Callable[[float], str]


@dataclass
class Drawing:
    """A figure, and the text that a page shows where one points at a part of it, by the part's gid."""

    figure: Figure
    tips: dict[str, str] = field(default_factory=dict)

    def add_tip(self, part: Artist, text: str) -> None:
        """Show the text where one points at the part."""
        name = f"tip-{len(self.tips)}"
        part.set_gid(name)
        self.tips[name] = text


def write_pictures(bench: Bench, folder: Path) -> list[Path]:
    """Write the ratios to the best peer, and a roofline for each number of threads, as PNG. Raises: OutputError."""
    results = list(bench.cells.values())
    if not results:
        return []
    written = [folder / RATIO_NAME]
    title = "time of the best peer / ours, by M and K x N"
    save_figure(heat_maps(results, lambda r: r.ratio(r.best_peer), ratio_color, title).figure, written[0])
    for threads in sorted({r.cell.threads for r in results}):
        drawing = None if bench.ceilings is None else roofline(results, bench.ceilings, threads)
        if drawing is not None:
            written.append(folder / f"roofline_{threads}.png")
            save_figure(drawing.figure, written[-1])
    return written


def as_svg(drawing: Drawing, label: str) -> Markup:
    """Return the drawing as SVG for a page; the same drawing gives the same text.

    Args:
        label: what it shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        drawing.figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    ElementTree.register_namespace("", _SVG[1:-1])
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(buffer.getvalue())
    root.set("role", "img")
    root.set("aria-label", label)
    for metadata in root.findall(f"{_SVG}metadata"):
        root.remove(metadata)
    for group in root.iter(f"{_SVG}g"):
        tip = drawing.tips.get(group.attrib.pop("id", ""))  # ids of groups would repeat in a page of several drawings
        if tip is not None:
            title = ElementTree.Element(f"{_SVG}title")
            title.text = tip
            group.insert(0, title)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def ratio_color(ratio: float) -> str:
    """Return a color from red (half as fast as the peer) by grey to green (twice as fast and more).

    >>> ratio_color(1.0), ratio_color(0.5), ratio_color(4.0)
    ('#f0f0f0', '#e06666', '#6aba7f')
    """
    share = max(-1.0, min(1.0, math.log2(ratio)))
    return _blend((240, 240, 240), (224, 102, 102) if share < 0 else (106, 186, 127), abs(share))


def fraction_color(fraction: float) -> str:
    """Return a color from grey (nothing of the ceiling) to blue (all of it)."""
    return _blend((240, 240, 240), (110, 168, 214), max(0.0, min(1.0, fraction)))


def heat_maps(results: Iterable[CellResult], value: Value, color: Color, title: str) -> Drawing:
    """Draw M (rows) by K x N (columns) for each `Cell.group`; a cell's tip has all its times."""
    results = list(results)
    groups = list(by_group(results).values())
    threads = list(dict.fromkeys(r.cell.threads for r in results))
    kinds = list(dict.fromkeys(_row(members[0]) for members in groups))
    shapes = list(dict.fromkeys((r.cell.K, r.cell.N) for r in results))
    sizes = list(dict.fromkeys(r.cell.M for r in results))
    width = max(3.0, (1 + len(shapes)) * _CELL_INCHES[0]) * len(threads)
    height = (3 + len(sizes)) * _CELL_INCHES[1] * len(kinds)
    drawing = Drawing(Figure(figsize=(width + 0.5, height), layout="constrained"))
    grid = drawing.figure.subplots(len(kinds), len(threads), squeeze=False)
    for members in groups:
        axes = grid[kinds.index(_row(members[0]))][threads.index(members[0].cell.threads)]
        for result in members:
            row, column = sizes.index(result.cell.M), shapes.index((result.cell.K, result.cell.N))
            number = value(result)
            fill = "white" if number is None else color(number)
            cell = axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=fill, edgecolor="white"))
            drawing.add_tip(cell, describe(result))
            axes.text(column, row, format_number(number), ha="center", va="center", fontsize=7)
        axes.set_xticks(range(len(shapes)), [f"{k}x{n}" for k, n in shapes], fontsize=6)
        axes.set_yticks(range(len(sizes)), [str(size) for size in sizes], fontsize=7)
        axes.set_xlim(-0.5, len(shapes) - 0.5)
        axes.set_ylim(len(sizes) - 0.5, -0.5)
        axes.set_ylabel("M", fontsize=7, rotation=0)
        axes.set_title(members[0].cell.group, fontsize=9)
        axes.spines[:].set_visible(False)
    drawing.figure.suptitle(title, fontsize=10)
    return drawing


def _row(result: CellResult) -> tuple[str, bool]:
    """Return what the row of maps is about: everything of `Cell.group` but the threads."""
    return str(result.cell.kind), result.cell.is_cold


def roofline(results: Sequence[CellResult], ceilings: Ceilings, threads: int) -> Drawing | None:
    """Draw GFLOP/s over operations per byte, both logarithmic: the ceilings as lines, our cells as points.

    Returns: None where no cell of ours was timed with so many threads.
    """
    timed = [(r, r.ours) for r in results if r.cell.threads == threads and r.ours]
    if not timed:
        return None
    figure, axes = new_figure(f"Roofline, {runs_on(threads)}", "floating-point operations per byte", "GFLOP/s")
    drawing = Drawing(figure)
    rates = {dtype: row[threads] / 1e9 for dtype, row in ceilings.flops.items()}
    speeds = {level: row[threads] / 1e9 for level, row in ceilings.bandwidth.items()}
    intensities = [r.flops / r.nbytes for r, _ in timed]
    low, high, most = min(intensities), max([100.0, *intensities]), max(rates.values())
    for level, speed in speeds.items():
        axes.plot([low, most / speed], [low * speed, most], color="0.4", linewidth=1)
        _annotate(axes, f"{level} {speed:.0f} GB/s", (low, low * speed), "left")
    for dtype, rate in rates.items():
        axes.plot([rate / max(speeds.values()), high], [rate, rate], color=COLORS[dtype], linewidth=1)
        _annotate(axes, f"{dtype} {rate:.0f} GFLOP/s", (high, rate), "right")
    labelled: set[str] = set()
    for result, seconds in timed:
        dtype = result.cell.dtype
        label = dtype if dtype not in labelled else "_"  # which a legend leaves out
        labelled.add(dtype)
        place = [result.flops / result.nbytes], [result.flops / seconds / 1e9]
        (point,) = axes.plot(*place, "o", color=COLORS[dtype], markersize=4, alpha=0.7, label=label)
        drawing.add_tip(point, describe(result))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(frameon=False, loc="lower right")
    return drawing


def describe(result: CellResult) -> str:
    """Return a cell with the time of every backend, a line each."""
    lines = [str(result.cell)]
    for name, backend in result.backends.items():
        if backend.median is None:
            lines.append(f"{name}: {backend.outcome}{f', {backend.detail}' if backend.detail else ''}")
        else:
            ratio = "" if name == OURS else f", {format_number(result.ratio(name))} of ours"
            lines.append(f"{name}: {format_time(backend.median)} (spread {backend.spread or 0:.0%}){ratio}")
    if result.ceiling_s is not None:
        lines.append(f"ceiling: {format_time(result.ceiling_s)} by {result.bound_by}")
    return "\n".join(lines)


def _annotate(axes: Axes, text: str, place: tuple[float, float], alignment: str) -> None:
    axes.annotate(text, place, fontsize=7, ha=alignment, xytext=(0, 4), textcoords="offset points")


def _blend(start: tuple[int, int, int], end: tuple[int, int, int], share: float) -> str:
    red, green, blue = (round(a + (b - a) * share) / 255 for a, b in zip(start, end, strict=True))
    return to_hex((red, green, blue))
