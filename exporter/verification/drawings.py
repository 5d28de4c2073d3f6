"""Draw what `verify` found for its page: histograms of the errors, and the graph. Needs jinja2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.verification.result import Verification
from ort_ops.console.html_report import render
from ort_ops.numerics.statistics import EDGES

if TYPE_CHECKING:
    from markupsafe import Markup

_RIGHT, _WRONG, _OTHER = "#2f6f9f", "#b3261e", "#59636e"
_BAR_WIDTH, _BARS_HEIGHT = 46, 90
_COLUMN, _LAYER, _MARGIN = 190, 54, 10  # pixels from one box to the next, and around all
_BOX_HEIGHT, _BOX_MIDDLE = 34, 85
_MAX_DRAWN = 300


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram."""

    x: int
    y: float
    width: int
    height: float
    color: str
    label: str
    count: int


@dataclass(frozen=True)
class Box:
    """One node of the graph."""

    x: int
    y: int
    name: str
    what: str
    color: str


def histograms(result: Verification) -> Markup:
    """Return a histogram of the errors, in units of their bound, for each backend that ran."""
    from markupsafe import Markup

    drawn = []
    for backend in dict.fromkeys(row.backend for row in result.rows):
        counts = [0] * (len(EDGES) + 1)
        for row in result.rows:
            if row.backend == backend:
                for index, count in enumerate(row.histogram):
                    counts[index] += count
        if sum(counts):
            label = f"{backend}: errors in units of the bound"
            size = {"width": 8 + len(counts) * _BAR_WIDTH, "height": _BARS_HEIGHT + 36}
            drawn.append(render("bars.html", title=backend, label=label, bars=_bars(counts), **size))
    return Markup("\n").join(drawn)


def _bars(counts: Sequence[int]) -> list[Bar]:
    labels = [f"<{EDGES[0]:g}", *(f"{edge:g}" for edge in EDGES)]
    bars = []
    for index, (count, label) in enumerate(zip(counts, labels, strict=True)):
        height = max(round(_BARS_HEIGHT * count / max(counts), 1), 2) if count else 0
        color = _WRONG if index == len(EDGES) else _RIGHT
        y = _BARS_HEIGHT - height + 16
        bars.append(Bar(4 + index * _BAR_WIDTH, y, _BAR_WIDTH - 6, height, color, label, count))
    return bars


def graph(result: Verification) -> Markup:
    """Draw the main graph: a node below all that it needs, with lines from there."""
    nodes = result.nodes[:_MAX_DRAWN]
    wrong = {node for row in result.rows if row.is_violated and row.where is not None for node in row.where.nodes}
    place: dict[str, tuple[int, int]] = {}
    widths: dict[int, int] = {}
    boxes, lines = [], []
    for node in nodes:
        sources = [place[value] for value in node.inputs if value in place]
        layer = 1 + max((y for _, y in sources), default=-1)
        column = widths.get(layer, 0)
        widths[layer] = column + 1
        place |= dict.fromkeys(node.outputs, (column, layer))
        x, y = _MARGIN + column * _COLUMN, _MARGIN + layer * _LAYER
        name = node.name or (node.outputs[0] if node.outputs else "")
        color = _WRONG if name in wrong else _RIGHT if node.is_ours else _OTHER
        boxes.append(Box(x, y, name, node.op_type, color))
        for from_column, from_layer in sources:
            start = _MARGIN + from_column * _COLUMN + _BOX_MIDDLE, _MARGIN + from_layer * _LAYER + _BOX_HEIGHT
            lines.append((*start, x + _BOX_MIDDLE, y))
    return render(
        "graph.html",
        boxes=boxes,
        lines=lines,
        width=2 * _MARGIN + max(widths.values(), default=1) * _COLUMN,
        height=2 * _MARGIN + (max(widths, default=0) + 1) * _LAYER,
        num_left_out=len(result.nodes) - len(nodes),
    )
