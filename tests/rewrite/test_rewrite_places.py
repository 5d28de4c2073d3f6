"""adopt and lower in bodies of If, Loop and Scan and in model-local functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ort_ops.models.checks import function_difference
from ort_ops.models.nodes import operator_nodes
from ort_ops.operators.mylinear.contract import DOMAIN
from ort_ops.rewrite.report import Place
from ort_ops.rewrite.rewrite import adopt, lower
from tests.rewrite.small_models import RNG, B, W, constant, model_of, node, run


def branches(weight_inside: bool) -> onnx.ModelProto:
    """If on the sum of x: a linear layer in each branch, its weight within the branch or of the main graph."""
    tensors = [numpy_helper.from_array(W, "W"), numpy_helper.from_array(B, "B")] if weight_inside else []

    def branch(name: str, op_type: str) -> onnx.GraphProto:
        nodes = [node("MatMul", "x W", f"p_{name}"), node("Add", f"p_{name} B", f"h_{name}")]
        nodes.append(node(op_type, f"h_{name}", f"out_{name}"))
        output = helper.make_tensor_value_info(f"out_{name}", TensorProto.FLOAT, ["batch", 4])
        return helper.make_graph(nodes, name, [], [output], tensors)

    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0), constant("zero", np.float32(0)),
        node("Greater", "sum zero", "positive"),
        node("If", "positive", "y", then_branch=branch("then", "Relu"), else_branch=branch("else", "Neg")),
    ]  # fmt: skip
    return model_of(nodes, {} if weight_inside else {"W": W, "B": B})


def looped() -> onnx.ModelProto:
    square = RNG.standard_normal((3, 3)).astype(np.float32)
    body = helper.make_graph(
        [node("MatMul", "state W", "p"), node("Add", "p b", "next"), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 3]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["batch", 3]),
        ],
    )
    nodes = [constant("n", np.int64(3)), constant("true", np.bool_(True)), node("Loop", "n true x", "y", body=body)]
    return model_of(nodes, {"W": square, "b": square[0]})


def scanned() -> onnx.ModelProto:
    square = RNG.standard_normal((3, 3)).astype(np.float32)
    body = helper.make_graph(
        [node("Gemm", "row2 W", "g"), node("Squeeze", "g axis", "s"), node("Add", "s state", "next"),
         node("Identity", "next", "out")],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in ("state", "row")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in ("next", "out")],
        [numpy_helper.from_array(square, "W"), numpy_helper.from_array(np.array([0]), "axis")],
    )  # fmt: skip
    body.node.insert(0, node("Unsqueeze", "row axis", "row2"))
    scan = helper.make_node("Scan", ["zero", "x"], ["last", "y"], num_scan_inputs=1, body=body)
    return model_of([constant("zero", np.zeros(3, np.float32)), scan], {}, ("batch", 3))


def in_a_function() -> onnx.ModelProto:
    function = helper.make_function(
        "local", "Block", ["X"], ["Y"],
        [constant("W", W), constant("B", B), node("MatMul", "X W", "p"), node("Add", "p B", "h"),
         node("Relu", "h", "Y")],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    return model_of([helper.make_node("Block", ["x"], ["y"], domain="local")], {}, functions=[function])


INNER: dict[str, tuple[Callable[[], onnx.ModelProto], int]] = {
    "If, weights inside": (lambda: branches(True), 2),
    "If, weights outside": (lambda: branches(False), 2),
    "Loop": (looped, 1),
    "Scan": (scanned, 1),
    "a model-local function": (in_a_function, 1),
}


@pytest.mark.parametrize("name", INNER)
def test_inner_graphs_are_rewritten_both_ways(name: str, tmp_path: Path) -> None:
    make, count = INNER[name]
    paths = [tmp_path / f"{n}.onnx" for n in ("source", "adopted", "lowered")]
    onnx.save(make(), paths[0])
    result = adopt(paths[0], paths[1])
    assert len(result.rewritten) == len(operator_nodes(onnx.load(paths[1]))) == count
    assert all(entry.place != Place() for entry in result.rewritten)
    assert function_difference(onnx.load(paths[1])) is None
    lower(paths[1], paths[2])
    assert operator_nodes(onnx.load(paths[2])) == []
    assert all(entry.domain != DOMAIN for f in onnx.load(paths[2]).functions for entry in f.opset_import)
    for sign in (1, -1):
        x = sign * np.abs(np.random.default_rng(2).standard_normal((4, 3))).astype(np.float32)
        for path in paths[1:]:
            np.testing.assert_allclose(run(path, x), run(paths[0], x), rtol=1e-5, atol=1e-5)
    again = adopt(paths[2], tmp_path / "again.onnx")
    assert again.num_nodes_after == result.num_nodes_after
