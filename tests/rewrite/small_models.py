"""Small models to rewrite, and how they run in plain onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]


RNG = np.random.default_rng(0)


W = RNG.standard_normal((3, 4)).astype(np.float32)  # as MatMul takes it


B = RNG.standard_normal(4).astype(np.float32)


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=f"node_{output}", **attributes)


def constant(name: str, array: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array), name))


def model_of(
    nodes: list[onnx.NodeProto],
    initializers: dict[str, Array],
    x_shape: tuple[int | str, ...] = ("batch", 3),
    y_shape: tuple[int | str, ...] | None = None,
    dtype: int = TensorProto.FLOAT,
    functions: list[onnx.FunctionProto] | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()]
    rank = len(initializers["shape"]) if "shape" in initializers else len(x_shape)
    output = helper.make_tensor_value_info("y", dtype, y_shape or [f"y{i}" for i in range(rank)])
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", dtype, x_shape)], [output], tensors)
    imports = [helper.make_opsetid("", opset)]
    if functions:
        imports.append(helper.make_opsetid("local", 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions or [])


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(path: Path, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    result: Array = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"]).run(None, {"x": x})[0]
    return result
