"""onnx's reference evaluator with our operators: right to float64, and everywhere in a model."""

from __future__ import annotations

import math
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from ort_ops.analysis import evaluator
from ort_ops.analysis.evaluator import erf, make_evaluator


@pytest.mark.parametrize("has_scipy", [True, False])
def test_erf_is_right_to_the_last_places_of_float64(has_scipy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_scipy:
        monkeypatch.setitem(sys.modules, "scipy.special", None)
    monkeypatch.setattr(evaluator, "_erf", evaluator._erf.__wrapped__)
    x = np.concatenate([np.random.default_rng(0).uniform(-7, 7, 50_000), [5.999, 6.0, 6.1, 1e-320, -1e-9, 1 / 512]])
    exact = np.array([math.erf(value) for value in x])
    assert (np.abs(erf(x) - exact) <= 4 * np.spacing(np.abs(exact))).all()
    special = erf(np.array([[0.0, -0.0], [np.inf, -np.inf], [np.nan, 2.0]]))
    np.testing.assert_array_equal(special, [[0.0, -0.0], [1, -1], [np.nan, math.erf(2.0)]])
    assert np.signbit(special[0, 1])
    assert erf(np.zeros((0, 3))).shape == (0, 3)


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
