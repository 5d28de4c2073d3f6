"""Models with activations after the sum: one node for each layer by both exporters, and the version that it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from exporter.operators.mylinear.functional import linear
from exporter.operators.mylinear.module import MyLinear
from exporter.operators.mylinear.version_2.activations import ACTIVATIONS
from exporter.operators.mylinear.version_2.fuse import fuse_activations
from exporter.to_onnx.export import export
from ort_ops.numerics.bound import IN_STEPS, ROUNDED
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.operators.mylinear.version_2.error_bound import activation_bound


def version(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain == "mylinear")


def names(model: onnx.ModelProto) -> list[str]:
    """Return the activation of each node; the op type of a node of another operator."""
    return [
        next((helper.get_attribute_value(a).decode() for a in node.attribute), "none")
        if node.domain == "mylinear"
        else node.op_type
        for node in model.graph.node
    ]


@pytest.mark.parametrize(("engine", "opset"), [("dynamo", 20), ("torchscript", 20), ("torchscript", 11)])
def test_every_activation_is_an_attribute_of_one_node(engine: str, opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(MyLinear(6, 6, bias=name != "silu", activation=name) for name in ACTIVATIONS))
    result = export(model, torch.randn(3, 6), tmp_path / "model.onnx", engine=engine, opset=opset)
    assert result.num_nodes == {"mylinear::MYLINEAR": len(ACTIVATIONS)}
    assert result.num_linear == len(ACTIVATIONS)
    written = onnx.load(result.path)
    assert names(written) == list(ACTIVATIONS)
    assert version(written) == 2
    assert result.comparisons["y"].text == "ok"


@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
def test_without_activations_a_model_imports_version_1(engine: str, tmp_path: Path) -> None:
    model = nn.Sequential(MyLinear(3, 3, activation="none"), nn.ReLU(), MyLinear(3, 2))
    written = onnx.load(export(model, torch.randn(2, 3), tmp_path / "model.onnx", engine=engine).path)
    assert (version(written), names(written)) == (1, ["none", "Relu", "none"])
    assert not any(node.attribute for node in written.graph.node)
    assert fuse_activations(model).fused == {"0": "relu"}
    written = onnx.load(export(model, torch.randn(2, 3), tmp_path / "model.onnx", engine=engine).path)
    assert (version(written), names(written)) == (2, ["relu", "none"])


class Narrow(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return linear(linear(x, self.weight), self.weight.t().contiguous(), activation="tanh")


@pytest.mark.parametrize("engine", ["dynamo", "torchscript"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_weights_stay_narrow(engine: str, dtype: torch.dtype, tmp_path: Path) -> None:
    result = export(Narrow(dtype), torch.randn(2, 3), tmp_path / "model.onnx", engine=engine)
    written = onnx.load(result.path)
    assert version(written) == 2
    assert [node.op_type for node in written.graph.node if node.op_type == "Cast"] == []
    stored = {tensor.data_type for tensor in written.graph.initializer if len(tensor.dims) == 2}
    assert stored == {onnx.TensorProto.FLOAT16 if dtype is torch.float16 else onnx.TensorProto.BFLOAT16}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_16_bits_torch_rounds_the_sum_and_onnxruntime_does_not(dtype: torch.dtype, tmp_path: Path) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        model = nn.Sequential(MyLinear(8, 16, activation="gelu_tanh")).to(dtype)
        result = export(model, (8 * torch.randn(3, 8)).to(dtype), tmp_path / "model.onnx")
        assert result.comparisons["y"].text == "ok"
    arithmetics = (ROUNDED, IN_STEPS)
    x, weight = np.full((1, 1), -3, np.float64), np.ones((1, 1))
    narrow, wide = (
        [float(activation_bound(x, weight, None, "gelu", ELEMENT_TYPES[name], a).error[0, 0]) for a in arithmetics]
        for name in (str(dtype).removeprefix("torch."), "float32")
    )
    assert narrow[0] < narrow[1] / 5
    assert wide[0] == wide[1]
