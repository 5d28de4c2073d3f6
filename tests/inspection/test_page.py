"""mylinear inspect --html: the drawing, its limits, and names that are no markup."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ort_ops.cli import main as cli
from ort_ops.inspection import drawing, page
from ort_ops.inspection.graph_view import GraphView, graph_views
from ort_ops.rewrite.rewrite import adopt
from tests.linear_model import make_linear_model
from tests.rewrite.test_rewrite_places import INNER

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pygraphviz") is None, reason="needs pygraphviz")

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
NAMES = (
    "<script>alert(1)</script>",
    "</title></svg><img src=x onerror=alert(1)>",
    "quotes \" and ' and \\",
    '"]; n0 -> n1 [label="x',
    "two\nlines\t\x1b[31m",
    "&lt;entity&gt; \\N \\G \\l",
    "--> ]]> {a|b}",
    "<b>bold</b>",
    "höhe 日本 🙂",
)


def chain(names: tuple[str, ...]) -> onnx.ModelProto:
    """Return a model of Relu nodes, one after the other, called by the names; so are the values."""
    values = [f"{name} {index}" for index, name in enumerate(("x", *names))]
    nodes = [
        helper.make_node("Relu", [taken], [made], name=name)
        for name, taken, made in zip(names, values, values[1:], strict=False)
    ]
    ends = [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", 3]) for value in (values[0], values[-1])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Found(HTMLParser):
    """The tags of a page, with their attributes, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def inspect(model: onnx.ModelProto | Path, folder: Path, *options: str, status: int = 0) -> str:
    path = model if isinstance(model, Path) else folder / "m.onnx"
    if isinstance(model, onnx.ModelProto):
        onnx.save(model, path)
    assert cli.main(["inspect", str(path), "--html", str(folder / "m.html"), *options]) == status
    return (folder / "m.html").read_text()


def drawings(text: str) -> list[ElementTree.Element]:
    """Return the drawings of a page; fail on one that is not well-formed."""
    return [ElementTree.fromstring(part) for part in re.findall(r"<svg .*?</svg>", text, re.DOTALL)]


def labels(svg: ElementTree.Element, css_class: str) -> list[list[str]]:
    """Return the lines of text of each node of a class."""
    groups = [g for g in svg.iter("{http://www.w3.org/2000/svg}g") if css_class in g.get("class", "").split()]
    return [[text.text or "" for text in g.iter("{http://www.w3.org/2000/svg}text")] for g in groups]


def test_nodes_of_ours_have_the_color_and_the_name_of_their_kernel(tmp_path: Path) -> None:
    model = make_linear_model(["batch", 3], WEIGHT, WEIGHT[:, 0])
    model.graph.node[0].name = "layer"
    text = inspect(model, tmp_path, "--require-kernel", "cpp", "--run")
    svg, definition = drawings(text)
    assert labels(svg, "kernel-cpp") == [["MYLINEAR", "layer", "by cpp"]]
    assert labels(svg, "first") == [["input x", "float32 [batch, 3]"]]
    assert labels(svg, "last") == [["output y", "float32 [batch, 4]"]]
    assert labels(definition, "standard"), "the definition inside the model has a drawing of its own"
    assert "which runs where no kernel is; here: cpp" in text
    assert "ours, by the cpp kernel (1)" in text
    assert "It passes the gate." in text
    assert svg.get("aria-label") == "Graph of the main graph: 1 node. The table below lists them."
    assert "<td>layer</td><td>MYLINEAR</td><td>cpp</td>" in text


def test_a_page_asks_no_other_host_for_anything(tmp_path: Path) -> None:
    text = inspect(make_linear_model(["batch", 3], WEIGHT, None), tmp_path)
    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
    }  # fmt: skip
    for tag, attributes in Found(text).tags:
        assert tag not in ("link", "img", "iframe", "object", "image")
        assert not {"src", "href", "xlink:href"} & attributes.keys()
    assert "@import" not in text
    assert "url(" not in text


def test_names_are_text(tmp_path: Path) -> None:
    text = inspect(chain(NAMES), tmp_path)
    found = Found(text)
    assert [tag for tag, _ in found.tags].count("script") == 1, "the page's own"
    assert not [tag for tag, _ in found.tags if tag in ("img", "b")]
    assert not [attributes for _, attributes in found.tags if any(name.startswith("on") for name in attributes)]
    (svg,) = drawings(text)
    shown = [lines[1] for lines in labels(svg, "standard")]
    whole = [name.replace("\n", "\\n").replace("\t", "\\t").replace("\x1b", "\\x1b") for name in NAMES]
    assert shown == [name if len(name) <= 32 else f"...{name[-29:]}" for name in whole]
    edges = [group for group in svg.iter() if group.get("class") == "edge"]
    assert len(edges) == len(NAMES) + 1, "no name adds an edge"
    tips = [title.text or "" for title in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert [tip.partition(", by ")[0] for tip in tips] == [f"Relu '{name}'" for name in whole]
    assert all(name in "".join(found.texts) for name in whole)


@pytest.mark.parametrize("name", ["If, weights inside", "Loop", "a model-local function"])
def test_bodies_and_functions_are_drawn(name: str, tmp_path: Path) -> None:
    make, count = INNER[name]
    onnx.save(make(), tmp_path / "in.onnx")
    adopt(tmp_path / "in.onnx", tmp_path / "m.onnx")
    svgs = drawings(inspect(tmp_path / "m.onnx", tmp_path))
    assert labels(svgs[0], "kernel-cpp") == []
    assert sum(len(labels(svg, "kernel-cpp")) for svg in svgs[1:]) == count


def test_a_body_shows_what_it_takes_from_outside(tmp_path: Path) -> None:
    make, _ = INNER["If, weights inside"]
    main, *branches = graph_views(make(), {}, {})[:3]
    assert main.outside == ()
    assert [branch.outside for branch in branches] == [("x",), ("x",)]
    taken = main.nodes[-1]
    assert (taken.operator, {"x", "positive"} <= set(taken.inputs)) == ("If", True), "its bodies take x"


def test_a_large_graph_is_cut_to_what_is_near_our_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_DRAWN", 20)
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name=f"relu{i}") for i in range(40)]
    nodes[30] = helper.make_node("Gemm", ["v30", "W", "B"], ["v31"], name="layer", transB=1)
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in (("W", WEIGHT[:3]), ("B", WEIGHT[0]))]
    ends = [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", 3]) for value in ("v0", "v40")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "in.onnx")
    adopt(tmp_path / "in.onnx", tmp_path / "m.onnx")
    text = inspect(tmp_path / "m.onnx", tmp_path)
    svg = drawings(text)[0]
    assert [lines[1] for lines in labels(svg, "standard")] == ["relu28", "relu29", "relu31", "relu32"]
    assert [lines[1] for lines in labels(svg, "kernel-cpp")] == ["layer"]
    assert labels(svg, "end") == [["..."], ["..."]], "one before, one after"
    assert "of this graph 5, those of registered operators and what is near them" in text
    assert text.count("<td>Relu</td>") == 39, "the table has all"


def test_what_is_drawn_never_exceeds_the_limit() -> None:
    (view,) = graph_views(chain(tuple("abcdefgh")), {}, {})
    assert [sorted(view.near_ours(limit)) for limit in (8, 3, 0)] == [list(range(8)), [0, 1, 2], []]


@pytest.mark.parametrize("fault", ["too slow", "no Graphviz"])
def test_a_graph_that_cannot_be_drawn_leaves_the_table(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "too slow":
        monkeypatch.setattr(drawing, "_MAX_SECONDS", 0.001)
    else:
        monkeypatch.setattr(drawing, "_CHILD", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    text = inspect(chain(("a", "b")), tmp_path)
    said = "did not lay out 2 nodes in 0.001 s" if fault == "too slow" else "failed with status -11: it said nothing"
    assert f"There is no drawing: Graphviz {said}." in text
    assert text.count("<td>Relu</td>") == 2


def test_faults_and_a_failed_gate_stand_out(tmp_path: Path) -> None:
    model = make_linear_model(["batch", 3], WEIGHT, None)
    assert '<td class="bad">' not in inspect(model, tmp_path)
    text = inspect(chain(("a",)), tmp_path, "--require-kernel", "cpp", status=1)
    assert "The model does not pass the gate" in text
    assert re.search(r'<td>gate</td><td class="bad">[^<]*has no node of a registered operator', text)
    del model.graph.node[0].input[1:]
    text = inspect(model, tmp_path, status=1)
    assert "The model breaks the contract" in text
    assert labels(drawings(text)[0], "kernel-none") == [["MYLINEAR", "linear", "by none"]]


def test_json_goes_with_a_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inspect(chain(("a",)), tmp_path, "--json")
    assert capfd.readouterr().out.startswith("{")
    onnx.save(chain(("a",)), tmp_path / "m.onnx")
    assert cli.main(["inspect", str(tmp_path / "m.onnx"), "--html", "-"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("<!doctype html>"), "the page alone"
    assert "onnxruntime's own kernels" in err


def test_a_page_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", "missing.onnx", "--html", str(tmp_path / "none" / "m.html")]) == 2
    assert "m.html' cannot be written: there is no folder" in capsys.readouterr().err


def test_a_view_without_nodes_is_drawn() -> None:
    svg = drawing.to_svg(GraphView("main graph", (), {"x": "float32 [3]"}, {"x": ""}), set())
    assert labels(ElementTree.fromstring(svg), "end") == [["input x", "float32 [3]"]]
