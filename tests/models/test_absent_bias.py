"""No file is written with an empty third input, which onnxruntime 1.17 refuses where Y is an inner value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from exporter import export, linear
from ort_ops.models.complete import complete_inputs
from ort_ops.models.graphs import all_nodes
from ort_ops.models.nodes import attach_functions
from ort_ops.operators.mylinear.contract import ABSENT_BIAS, DOMAIN, NAME
from ort_ops.rewrite.rewrite import adopt
from tests.linear_model import make_linear_model

WEIGHT = np.arange(9, dtype=np.float32).reshape(3, 3)


class WithoutBiases(nn.Module):
    """Stored and computed weights without a bias, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(WEIGHT.copy()))

    def forward(self, x: Tensor) -> Tensor:
        return linear(torch.relu(linear(linear(x, self.weight, None), self.weight * x.mean(), None)), self.weight, None)


def linear_inputs(model: onnx.ModelProto) -> list[list[str]]:
    return [list(node.input) for node in all_nodes(model) if (node.domain, node.op_type) == (DOMAIN, NAME)]


def check(model: onnx.ModelProto, count: int) -> None:
    inputs = linear_inputs(model)
    assert len(inputs) == count
    assert all(len(names) == 3 and all(names) for names in inputs), inputs


@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
def test_export_writes_every_bias(engine: str, tmp_path: Path) -> None:
    export(WithoutBiases(), torch.rand(2, 3), tmp_path / "m.onnx", engine=engine)
    check(onnx.load(tmp_path / "m.onnx"), 3)


def test_adopt_writes_every_bias(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Gemm", ["h", "w"], ["i"], transB=1),
        helper.make_node("Gemm", ["i", "w", ""], ["j"], transB=1),
        helper.make_node("MatMul", ["j", "w"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [numpy_helper.from_array(WEIGHT, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    adopt(tmp_path / "m.onnx", tmp_path / "a.onnx")
    check(onnx.load(tmp_path / "a.onnx"), 4)


@pytest.mark.parametrize("third", [[], [""]], ids=["no third", "an empty third"])
def test_a_definition_comes_to_complete_nodes_only(third: list[str]) -> None:
    model = make_linear_model(["n", 3], WEIGHT, None, with_function=False)
    del model.graph.node[0].input[2:]
    model.graph.node[0].input.extend(third)
    inner = helper.make_node(NAME, ["y", "weight", *third], ["z"], domain=DOMAIN)
    model.graph.node.append(inner)
    model.graph.output[0].name = "z"
    assert complete_inputs(model) == 2
    attach_functions(model)
    check(model, 2)
    added = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("absent_bias")]
    assert [array.tolist() for array in added] == [[ABSENT_BIAS] * 3] * 2
    assert all(np.signbit(array).all() for array in added)
