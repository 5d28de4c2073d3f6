"""Make the models that are measured: chains of layers, of MYLINEAR nodes, Gemm nodes or others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from exporter.bench.measure.cells import OURS
from ort_ops.operators.mylinear.contract import MYLINEAR

Layer = tuple[NDArray[Any], NDArray[Any]]
_OPSET, _IR_VERSION = 20, 9
PAIR = (OURS, "gemm")


def chain_model(backend: str, layers: Sequence[Layer]) -> ModelProto:
    """Make a model from ``x [batch, K]`` to ``y`` with one node for each (weight, bias): our operator, or Gemm."""
    names = ["x", *(f"h{i}" for i in range(1, len(layers))), "y"]
    nodes, tensors = [], []
    for i, (weight, bias) in enumerate(layers):
        nodes.append(_node(backend, [names[i], f"weight{i}", f"bias{i}"], names[i + 1]))
        tensors += [numpy_helper.from_array(weight, f"weight{i}"), numpy_helper.from_array(bias, f"bias{i}")]
    return make_model("chain", nodes, tensors, layers[0][0].shape[1], layers[-1][0].shape[0])


def make_model(
    name: str, nodes: Sequence[NodeProto], tensors: Sequence[TensorProto], in_features: int, out_features: int
) -> ModelProto:
    """Make a model from ``x [batch, in_features]`` to ``y [batch, out_features]``, in the tensors' element type."""
    element_type = tensors[0].data_type
    x = helper.make_tensor_value_info("x", element_type, ["batch", in_features])
    y = helper.make_tensor_value_info("y", element_type, ["batch", out_features])
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MYLINEAR.domain, MYLINEAR.since_version)]
    graph = helper.make_graph(nodes, name, [x], [y], tensors)
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def save_model(model: ModelProto, path: Path, *, is_external: bool) -> None:
    """Write the model with its weights inside, or in one file beside it."""
    if is_external:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    else:
        onnx.save(model, path)


def random_layers(size: int, number: int, dtype: np.dtype[Any]) -> list[Layer]:
    """Draw square layers that keep the magnitude of their input."""
    rng = np.random.default_rng(7)
    scale = np.float32(1 / np.sqrt(size))
    return [
        (
            (rng.standard_normal((size, size), np.float32) * scale).astype(dtype),
            rng.standard_normal(size, np.float32).astype(dtype),
        )
        for _ in range(number)
    ]


def _node(backend: str, inputs: list[str], output: str) -> NodeProto:
    if backend == OURS:
        return helper.make_node(MYLINEAR.name, inputs, [output], domain=MYLINEAR.domain)
    return helper.make_node("Gemm", inputs, [output], transB=1)
