"""The result of the proof for others: JUnit XML for pipelines, and a page with histograms and the graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from exporter.verification.result import Verification
from ort_ops.console.html_report import Section, write_report
from ort_ops.console.report_text import markup
from ort_ops.console.terminal import printable
from ort_ops.numerics.statistics import EDGES

if TYPE_CHECKING:
    from markupsafe import Markup

_BAR, _HEIGHT = 46, 90
_MAX_DRAWN = 300


def to_junit(result: Verification) -> str:
    """Return the result as JUnit XML: a test case for each row, and a failed one for each untested node."""
    wrong = [row for row in result.rows if row.is_violated]
    skipped = [row for row in result.rows if row.comparison is None]
    counts = {
        "tests": len(result.rows) + len(result.untested),
        "failures": len(wrong) + (0 if result.allow_untested else len(result.untested)),
        "skipped": len(skipped) + (len(result.untested) if result.allow_untested else 0),
        "errors": 0,
    }
    attributes = {"name": "mylinear verify", **{key: str(count) for key, count in counts.items()}}
    suite = ElementTree.Element("testsuite", attributes)
    for row in result.rows:
        names = {"classname": f"{result.path}.{row.backend}", "name": row.inputs}
        case = ElementTree.SubElement(suite, "testcase", {key: printable(name) for key, name in names.items()})
        if row.comparison is None:
            ElementTree.SubElement(case, "skipped", message=printable(str(row.reason)))
        elif row.is_violated:
            ElementTree.SubElement(case, "failure", message=printable(row.verdict))
    for node, reason in result.untested.items():  # skipped where they are allowed, and in the open all the same
        names = {"classname": f"{result.path}.every backend", "name": f"node '{node}'"}
        case = ElementTree.SubElement(suite, "testcase", {key: printable(name) for key, name in names.items()})
        outcome = "skipped" if result.allow_untested else "failure"
        ElementTree.SubElement(case, outcome, message=printable(f"untested: {reason}"))
    text: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text.decode()


def write_html(result: Verification, path: str | Path) -> None:
    """Write one page that opens offline: table, histograms of the errors, and the graph. Raises: OutputError."""
    from markupsafe import Markup

    backends = dict.fromkeys(row.backend for row in result.rows)
    conclusion = result.conclusion()
    remarks = [*result.untested_lines(), *result.notes]
    header, rows = result.table()
    write_report(
        path,
        f"Parity of {Path(result.path).name}",
        f"{conclusion[0].upper()}{conclusion[1:]}. Bound of the whole model's outputs: {result.bound}; of each "
        "node alone: its own.",
        [
            *([Section("What was not tested", "; ".join(remarks))] if remarks else []),
            Section("Every backend on every input", "", header, rows),
            Section(
                "How large the errors are",
                "Values by the size of their error in units of the bound. Beyond 1, in red, a backend is wrong.",
                markup=Markup("\n").join(_histogram(result, backend) for backend in backends),
            ),
            Section("The graph", "Nodes in the order in which they run; those at which a backend diverges are red.",
                    markup=_graph(result)),
        ],
    )  # fmt: skip


def _histogram(result: Verification, backend: str) -> Markup:
    from markupsafe import Markup

    counts = [0] * (len(EDGES) + 1)
    for row in result.rows:
        if row.backend == backend:
            for index, count in enumerate(row.histogram):
                counts[index] += count
    if not sum(counts):
        return Markup("")
    most = max(counts)
    bars = []
    labels = [f"<{EDGES[0]:g}", *(f"{edge:g}" for edge in EDGES)]
    for index, (count, label) in enumerate(zip(counts, labels, strict=True)):
        x, height = 4 + index * _BAR, round(_HEIGHT * count / most, 1)
        height = max(height, 2) if count else 0
        color = "#b3261e" if index == len(EDGES) else "#2f6f9f"
        bars.append(
            f'<rect x="{x}" y="{_HEIGHT - height + 16}" width="{_BAR - 6}" height="{height}" fill="{color}"/>'
            f'<text x="{x}" y="{_HEIGHT + 30}" font-size="10">{markup(label)}</text>'
            f'<text x="{x}" y="{_HEIGHT - height + 12}" font-size="9">{count or ""}</text>'
        )
    width = 8 + len(counts) * _BAR
    title = markup(f"{backend}: errors in units of the bound")
    return Markup(
        f'<h3>{markup(backend)}</h3><svg role="img" aria-label="{title}" width="{width}" height="{_HEIGHT + 36}" '
        f'viewBox="0 0 {width} {_HEIGHT + 36}">{"".join(bars)}</svg>'
    )


def _graph(result: Verification) -> Markup:
    """Draw the main graph: a node below all that it needs, with lines from there."""
    from markupsafe import Markup

    nodes = result.nodes[:_MAX_DRAWN]
    wrong = {node for row in result.rows if row.is_violated and row.where is not None for node in row.where.nodes}
    depth_of: dict[str, tuple[int, int]] = {}
    rows: dict[int, int] = {}
    boxes, lines = [], []
    for node in nodes:
        sources = [depth_of[value] for value in node.inputs if value in depth_of]
        depth = 1 + max((y for _, y in sources), default=-1)
        column = rows.get(depth, 0)
        rows[depth] = column + 1
        for output in node.outputs:
            depth_of[output] = (column, depth)
        x, y = 10 + column * 190, 10 + depth * 54
        label = node.name or (node.outputs[0] if node.outputs else "")
        color = "#2f6f9f" if node.is_ours else "#59636e"
        if label in wrong:
            color = "#b3261e"
        boxes.append(
            f'<g><title>{markup(label)}</title><rect x="{x}" y="{y}" width="170" height="34" rx="5" '
            f'fill="#fff" stroke="{color}" stroke-width="2"/><text x="{x + 8}" y="{y + 14}" font-size="11" '
            f'fill="{color}">{markup(node.op_type)}</text><text x="{x + 8}" y="{y + 28}" font-size="9">'
            f"{markup(label[-30:])}</text></g>"
        )
        for from_column, from_depth in sources:
            lines.append(
                f'<line x1="{95 + from_column * 190}" y1="{44 + from_depth * 54}" x2="{x + 85}" y2="{y}" '
                'stroke="#b8c0c8"/>'
            )
    width, height = 20 + max(rows.values(), default=1) * 190, 20 + (max(rows, default=0) + 1) * 54
    more = len(result.nodes) - len(nodes)
    note = f"<p>{more} further nodes are not drawn.</p>" if more else ""
    return Markup(
        f'<div style="overflow-x:auto"><svg role="img" aria-label="graph" width="{width}" height="{height}">'
        f"{''.join(lines)}{''.join(boxes)}</svg></div>{note}"
    )
