"""Write what `mylinear inspect` finds as one page that opens offline: verdict, graph by kernel, tables.

Needs jinja2 and pygraphviz, the extra ``graph``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ort_ops.console.counts import counted
from ort_ops.console.html_report import Section, render, write_report
from ort_ops.console.shown import Table
from ort_ops.console.tone import Tone, Toned
from ort_ops.inspection.drawing import MAX_DRAWN, DrawingError, css_class, to_svg
from ort_ops.inspection.graph_view import FUNCTION, NO_KERNEL, GraphView, graph_views
from ort_ops.inspection.model import Inspection
from ort_ops.inspection.shown import parts
from ort_ops.inspection.trial_run import OutputInfo
from ort_ops.models.files import look_at_model
from ort_ops.models.nodes import with_shapes

_MAX_ROWS = 5000
_MAX_SECTIONS = 40


@dataclass(frozen=True)
class LegendEntry:
    """One color, and what it stands for."""

    css_class: str
    text: str


def write_page(
    found: Inspection, path: str | Path, *, gate: str | None = None, outputs: Sequence[OutputInfo] = ()
) -> None:
    """Write the page. A graph that Graphviz cannot draw is told on the page, beside the table of its nodes.

    Args:
        gate: why the model does not pass the gate; empty if it passes, None if there is none.
        outputs: of a trial run.

    Raises: OutputError; ModelError for a file that is no model.
    """
    sections = [*_verdict(found, gate), *_graphs(found), *_told(found), *_run(outputs)]
    write_report(path, f"Model {Path(found.path).name}", _summary(found, gate), sections)


def _summary(found: Inspection, gate: str | None) -> str:
    if found.faults:
        return f"The model breaks the contract: {found.faults[0]}"
    if gate:
        return f"The model does not pass the gate: {gate}"
    if found.running.error:
        return f"The model does not run here: {found.running.error}"
    by = [f"{count} {name}" for name, count in Counter(map(found.running.kernels.get, _operators(found))).items()]
    ours = f"its nodes of registered operators by kernel: {', '.join(by)}" if by else "no node of a registered operator"
    passed = " It passes the gate." if gate == "" else ""
    return f"The model runs here on {', '.join(found.running.providers)}; {ours}.{passed}"


def _operators(found: Inspection) -> list[str]:
    return [node.operator for node in found.nodes]


def _verdict(found: Inspection, gate: str | None) -> Iterator[Section]:
    rows = [["fault", Toned(fault, Tone.BAD)] for fault in found.faults]
    if found.running.error and not found.faults:
        rows.append(["here", Toned(found.running.error, Tone.BAD)])
    if gate is not None:
        rows.append(["gate", Toned(gate, Tone.BAD) if gate else Toned("passed", Tone.GOOD)])
    if rows:
        yield Section("Verdict", header=["", "what was found"], rows=rows)


def _graphs(found: Inspection) -> Iterator[Section]:
    """Yield a section for each graph and function: its drawing, and the table of its nodes."""
    model = look_at_model(found.path)
    running = found.running
    views = graph_views(model if found.faults else with_shapes(model), running.kernels, running.assignment)
    budget = MAX_DRAWN
    for number, view in enumerate(views[:_MAX_SECTIONS]):
        drawn = view.near_ours(budget)
        budget -= len(drawn)
        text = [_size(view, running.kernels)]
        if len(drawn) < len(view.nodes):
            which = "those of registered operators and what is near them" if _has_ours(view) else "the first"
            text.append(
                f"A page draws {MAX_DRAWN} nodes at most: of this graph {len(drawn)}, {which}. Dots stand for the "
                "others; the table has them."
            )
        if number == 0 and len(views) > _MAX_SECTIONS:
            text.append(f"The model has {len(views) - 1} bodies and functions; the first {_MAX_SECTIONS - 1} follow.")
        svg = None
        try:
            svg = Markup(to_svg(view, drawn))  # names are escaped there
        except DrawingError as error:
            text.append(f"There is no drawing: {error}.")
        is_last = number == min(len(views), _MAX_SECTIONS) - 1
        markup = render("model_graph.html", legend=[] if number else _legend(views), svg=svg, is_last=is_last)
        title = view.title.removeprefix("in ")
        yield Section(f"Graph: {title}", " ".join(text), markup=markup)
        rows = [_row(node, view) for node in range(min(len(view.nodes), _MAX_ROWS))]
        fold = f"Table of the nodes: {title}"
        if len(view.nodes) > _MAX_ROWS:
            fold += f" (the first {_MAX_ROWS} of {len(view.nodes)})"
        yield Section("", header=["node", "operator", "runs by", "takes", "makes"], rows=rows, fold=fold)


def _has_ours(view: GraphView) -> bool:
    return any(node.is_ours for node in view.nodes)


def _size(view: GraphView, kernels: Mapping[str, str]) -> str:
    if view.defines:
        kernel = kernels.get(view.defines, NO_KERNEL)
        runs = "which is what runs here" if kernel == "body" else f"which runs where no kernel is; here: {kernel}"
        return f"The definition of {view.defines} in the file, {runs}."
    ours = sum(node.is_ours for node in view.nodes)
    constants = f" Constant nodes, left out: {view.num_constants}." if view.num_constants else ""
    return f"{counted(len(view.nodes), 'node')}, {ours} of registered operators.{constants}"


def _legend(views: Sequence[GraphView]) -> list[LegendEntry]:
    """Return an entry for each kernel that is in the model, with the number of its nodes."""
    counts = Counter((node.is_ours, node.kernel) for view in views if not view.defines for node in view.nodes)
    entries = []
    for (is_ours, kernel), count in sorted(counts.items(), key=lambda item: (not item[0][0], item[0][1])):
        if is_ours:
            what = "ours, and nothing runs it here" if kernel == NO_KERNEL else f"ours, by the {kernel} kernel"
        elif kernel == FUNCTION:
            what = "calls a local function"
        else:
            what = f"standard, by {kernel}" if kernel else "standard"
        entries.append(LegendEntry(css_class(kernel, is_ours), f"{what} ({count})"))
    return entries


def _row(index: int, view: GraphView) -> list[str]:
    node = view.nodes[index]
    makes = ", ".join(f"{name} {what}".rstrip() for name, what in node.results.items())
    kernel = Toned(node.kernel, Tone.BAD) if node.is_ours and node.kernel == NO_KERNEL else node.kernel
    return [node.name, node.operator, kernel, ", ".join(node.inputs), makes]


def _told(found: Inspection) -> Iterator[Section]:
    """Yield what the command prints: lines and tables, in its order."""
    titles = iter(["Inputs and outputs"])
    lines: list[str] = []
    told: list[str | Table] = [*parts(found), ""]
    for part in told:
        if isinstance(part, str):
            if part:
                lines.append(part)
            continue
        if lines:
            yield Section("About the model", code="\n".join(lines))
            lines = []
        header, rows = part
        yield Section(next(titles, f"Nodes: {header[0]}"), header=header, rows=rows)
    if lines:
        yield Section("About the model", code="\n".join(lines))


def _run(outputs: Sequence[OutputInfo]) -> Iterator[Section]:
    if outputs:
        rows = [[o.name, f"{o.dtype} {o.shape}", str(o.least), str(o.largest), str(o.num_not_finite)] for o in outputs]
        yield Section("One run", header=["output", "type", "least", "largest", "not finite"], rows=rows)
