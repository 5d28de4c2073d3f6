"""The function body of MYLINEAR's version 2 in runtimes that know nothing of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ort_ops.opdef.onnx_objects import make_function, make_node
from ort_ops.operators.mylinear.version_2.activations import activated
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS, MYLINEAR_2

RNG = np.random.default_rng(0)
X, W, B = (RNG.standard_normal(shape).astype(np.float32) for shape in ((3, 8), (4, 8), (4,)))


def model_of(activation: str, opset: int) -> onnx.ModelProto:
    function = make_function(MYLINEAR_2, opset, {"T": ["float32"], "TW": ["float32"]})
    node = make_node(MYLINEAR_2, ["x", "w", "b"], ["y"], activation=activation)
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["rows", k]) for n, k in (("x", 8), ("y", 4)))
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(W, "w"), numpy_helper.from_array(B, "b")])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MYLINEAR_2.domain, MYLINEAR_2.since_version)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=[function])


@pytest.mark.parametrize("opset", [11, 12, 17, 18, 19, 21, 23])
def test_onnx_own_evaluator_runs_the_body_of_every_opset(opset: int) -> None:
    for activation in ACTIVATIONS:
        (got,) = ReferenceEvaluator(model_of(activation, opset)).run(None, {"x": X})
        expected = activated((X @ W.T + B).astype(np.float64), activation)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [12, 17, 19, 21])
def test_onnxruntime_computes_the_choice_when_it_loads_the_model(opset: int, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    for activation in ACTIVATIONS:
        model = model_of(activation, opset).SerializeToString()
        (got,) = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"]).run(None, {"x": X})
        expected = activated((X @ W.T + B).astype(np.float64), activation)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        left = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
        assert not left & {"If", "TfIdfVectorizer", "Cast", "Reshape", "Squeeze"}
