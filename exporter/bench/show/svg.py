"""Draw heat maps of a number by cell, and the roofline, as SVG for the report."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence

from exporter.bench.measure.ceilings import Ceilings
from exporter.bench.measure.cells import OURS, Cell, runs_on
from exporter.bench.measure.grid import CellResult
from exporter.bench.show.tables import format_number, format_time

COLORS = {"float32": "#2f6f9f", "float64": "#b3261e", "float16": "#2e7d32", "bfloat16": "#8e5bb5"}
Value = Callable[[CellResult], float | None]
_WIDTH, _HEIGHT, _LEFT, _TOP = 78, 24, 52, 34
_PLOT_WIDTH, _PLOT_HEIGHT, _MARGIN = 700, 380, 56


def ratio_color(ratio: float) -> str:
    """Return a color from red (half as fast as the peer) by grey to green (twice as fast and more).

    >>> ratio_color(1.0), ratio_color(0.5), ratio_color(4.0)
    ('#f0f0f0', '#e06666', '#6aba7f')
    """
    share = max(-1.0, min(1.0, math.log2(ratio)))
    return _blend((240, 240, 240), (224, 102, 102) if share < 0 else (106, 186, 127), abs(share))


def fraction_color(fraction: float) -> str:
    """Return a color from grey (none of the ceiling is reached) to blue (all of it)."""
    return _blend((240, 240, 240), (110, 168, 214), max(0.0, min(1.0, fraction)))


def heat_map(results: Iterable[CellResult], value: Value, color: Callable[[float], str], title: str) -> str:
    """Draw M (rows) by K x N (columns) of one dtype and number of threads; a cell's tooltip has its times."""
    found = {(r.cell.M, (r.cell.K, r.cell.N)): r for r in results}
    sizes, shapes = list(dict.fromkeys(m for m, _ in found)), list(dict.fromkeys(s for _, s in found))
    drawn = [_text(4, _TOP - 8, "M", anchor="start")]
    drawn += [
        _text(_LEFT + (i + 0.5) * _WIDTH, _TOP - 8, f"{shape[0]}x{shape[1]}", size=10) for i, shape in enumerate(shapes)
    ]
    for row, size in enumerate(sizes):
        y = _TOP + row * _HEIGHT
        drawn.append(_text(4, y + 16, str(size), anchor="start"))
        for column, shape in enumerate(shapes):
            result = found.get((size, shape))
            number = None if result is None else value(result)
            x = _LEFT + column * _WIDTH
            fill = "#fff" if number is None else color(number)
            tooltip = "" if result is None else f"<title>{html.escape(_describe(result))}</title>"
            drawn.append(
                f'<g>{tooltip}<rect x="{x}" y="{y}" width="{_WIDTH - 2}" height="{_HEIGHT - 2}" fill="{fill}"/>'
                f"{_text(x + _WIDTH / 2 - 1, y + 15, format_number(number))}</g>"
            )
    width, height = _LEFT + len(shapes) * _WIDTH, _TOP + len(sizes) * _HEIGHT
    return f"<h3>{html.escape(title)}</h3>{_svg(width, height, title, drawn)}"


def roofline_plot(results: Sequence[CellResult], ceilings: Ceilings, threads: int) -> str:
    """Draw GFLOP/s over operations per byte, both logarithmic: the ceilings as lines, our cells as points."""
    points = [r for r in results if r.cell.threads == threads and r.ours]
    rates = {dtype: row[threads] for dtype, row in ceilings.flops.items()}
    bandwidth = {level: row[threads] for level, row in ceilings.bandwidth.items()}
    title = f"Roofline, {runs_on(threads)}"
    if not points:
        return ""
    intensities = [r.flops / r.nbytes for r in points]
    ranges = (
        (10 ** math.floor(math.log10(min(intensities))), 10 ** math.ceil(math.log10(max(*intensities, 100)))),
        (
            10 ** math.floor(math.log10(min(r.flops / (r.ours or 1) for r in points))),
            10 ** math.ceil(math.log10(max(rates.values()) * 1.2)),
        ),
    )

    def place(intensity: float, rate: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = ranges
        x = math.log(intensity / x0) / math.log(x1 / x0)
        y = math.log(rate / y0) / math.log(y1 / y0)
        return _MARGIN + x * _PLOT_WIDTH, 20 + (1 - y) * _PLOT_HEIGHT

    drawn = [*_axes(ranges, place)]
    most = max(rates.values())
    for level, speed in bandwidth.items():
        start = max(ranges[0][0], ranges[1][0] / speed)
        drawn.append(_line(place(start, start * speed), place(most / speed, most), "#59636e"))
        x, y = place(start, start * speed)
        drawn.append(
            _text(x + 6, y - 8 if level == "L2" else y + 8, f"{level} {speed / 1e9:.0f} GB/s", size=10, anchor="start")
        )
    for dtype, rate in rates.items():
        start = max(ranges[0][0], rate / max(bandwidth.values()))
        drawn.append(_line(place(start, rate), place(ranges[0][1], rate), COLORS[dtype]))
        x, y = place(ranges[0][1], rate)
        drawn.append(_text(x - 4, y - 5, f"{dtype} {rate / 1e9:.0f} GFLOP/s", size=10, anchor="end"))
    for r in points:
        assert r.ours is not None
        x, y = place(r.flops / r.nbytes, r.flops / r.ours)
        drawn.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{COLORS[r.cell.dtype]}" fill-opacity="0.7">'
            f"<title>{html.escape(_describe(r))}</title></circle>"
        )
    right = _MARGIN + _PLOT_WIDTH - 80
    for i, dtype in enumerate(dict.fromkeys(r.cell.dtype for r in points)):
        drawn.append(f'<circle cx="{right}" cy="{_PLOT_HEIGHT - 60 + i * 16}" r="4" fill="{COLORS[dtype]}"/>')
        drawn.append(_text(right + 10, _PLOT_HEIGHT - 56 + i * 16, dtype, anchor="start"))
    svg = _svg(_PLOT_WIDTH + _MARGIN + 10, _PLOT_HEIGHT + 60, title, drawn)
    return f"<h3>{title}</h3>{svg}"


def _axes(ranges: tuple[tuple[float, float], ...], place: Callable[[float, float], tuple[float, float]]) -> list[str]:
    (x0, x1), (y0, y1) = ranges
    drawn = []
    for power in range(round(math.log10(x0)), round(math.log10(x1)) + 1):
        x, y = place(10.0**power, y0)
        drawn += [_line((x, y), place(10.0**power, y1), "#e4e8ec"), _text(x, y + 16, f"{10.0**power:g}", size=10)]
    for power in range(round(math.log10(y0)), round(math.log10(y1)) + 1):
        x, y = place(x0, 10.0**power)
        label = f"{10.0 ** (power - 9):g}"
        drawn += [_line((x, y), place(x1, 10.0**power), "#e4e8ec"), _text(x - 4, y + 4, label, size=10, anchor="end")]
    drawn.append(_text(_MARGIN + _PLOT_WIDTH / 2, _PLOT_HEIGHT + 52, "floating-point operations per byte", size=11))
    drawn.append(_text(4, 14, "GFLOP/s", size=11, anchor="start"))
    return drawn


def _describe(result: CellResult) -> str:
    lines = [str(result.cell)]
    for name, side in result.sides.items():
        if side.median is None:
            lines.append(f"{name}: not timed, {side.reason}")
        else:
            ratio = "" if name == OURS else f", {format_number(result.ratio(name))} of ours"
            lines.append(f"{name}: {format_time(side.median)} (spread {side.spread or 0:.0%}){ratio}")
    if result.ceiling_s is not None:
        lines.append(f"ceiling: {format_time(result.ceiling_s)} by {result.bound_by}")
    return "\n".join(lines)


def _blend(start: tuple[int, int, int], end: tuple[int, int, int], share: float) -> str:
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(start, end, strict=True))


def _line(start: tuple[float, float], end: tuple[float, float], color: str) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _svg(width: float, height: float, title: str, drawn: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{html.escape(title)}" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}">{"".join(drawn)}</svg>'
    )


def by_dtype_and_threads(results: Iterable[CellResult]) -> dict[tuple[str, int], list[CellResult]]:
    """Group results as the heat maps show them."""
    groups: dict[tuple[str, int], list[CellResult]] = {}
    for result in results:
        cell: Cell = result.cell
        groups.setdefault((cell.dtype, cell.threads), []).append(result)
    return groups
