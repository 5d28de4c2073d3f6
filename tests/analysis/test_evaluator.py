"""onnx's reference evaluator with our operators: right to float64, and everywhere in a model."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from ort_ops.analysis.evaluator import make_evaluator


def one_node(op_type: str, inputs: list[str], dtypes: list[int], **attributes: object) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, t, None) for n, t in zip(inputs, dtypes, strict=True)]
    output = helper.make_tensor_value_info("y", dtypes[0], None)
    graph = helper.make_graph([helper.make_node(op_type, inputs, ["y"], **attributes)], "g", values, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_that_of_torch_in_float64(approximate: str) -> None:
    x = np.linspace(-8, 8, 1001)
    model = one_node("Gelu", ["x"], [TensorProto.DOUBLE], approximate=approximate)
    (y,) = make_evaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(
        y, torch.nn.functional.gelu(torch.from_numpy(x), approximate=approximate).numpy(), rtol=1e-12, atol=1e-15
    )


def test_gather_elements_of_long_axes() -> None:
    """onnx's own fails on more than 64 elements; indices may be negative, and may be fewer in other dimensions."""
    rng = np.random.default_rng(0)
    data, indices = rng.standard_normal((3, 100)), rng.integers(-100, 100, (2, 70))
    model = one_node("GatherElements", ["x", "i"], [TensorProto.DOUBLE, TensorProto.INT64], axis=1)
    (y,) = make_evaluator(model).run(None, {"x": data, "i": indices})
    np.testing.assert_array_equal(y, torch.gather(torch.from_numpy(data), 1, torch.from_numpy(indices % 100)).numpy())


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 1, 2), (3, 1, 1)])
def test_max_pool_tells_where_the_largest_are(kernel: int, stride: int, dilation: int) -> None:
    """onnx's own gives wrong indices for strides of 1."""
    model = one_node(
        "MaxPool", ["x"], [TensorProto.FLOAT], kernel_shape=[kernel] * 2, strides=[stride] * 2, dilations=[dilation] * 2
    )
    model.graph.node[0].output.append("i")
    model.graph.output.append(helper.make_tensor_value_info("i", TensorProto.INT64, None))
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for got, expected in zip(make_evaluator(model).run(None, {"x": x}), session.run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(got, expected)
