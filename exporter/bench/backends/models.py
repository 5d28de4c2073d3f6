"""Make the models that are measured: chains of layers, of our nodes, of ONNX's own, or of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from exporter.bench.backends.subject import subject
from exporter.bench.measure.cells import OURS
from exporter.torch_ops.workloads.bench import Array, Layer
from ort_ops.models import make

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


def one_node_model(weight: Array, bias: Array | None) -> ModelProto:
    """Make a model of one node of our operator, ``x [batch, K]`` to ``y``."""
    x_shape = ["batch", weight.shape[1]]
    return make.make_model(subject().operator, [x_shape, weight, bias], name="linear", with_function=False)


def unfused_model(weight: Array, bias: Array) -> ModelProto:
    """Make ``x [batch, K]`` to ``y`` by nodes of ONNX's own, without a fused one."""
    nodes, tensors = subject().unfused(weight, bias)
    return make_model("one_linear", nodes, tensors, weight.shape[1], weight.shape[0])


def make_model(
    name: str, nodes: Sequence[NodeProto], tensors: Sequence[TensorProto], columns: int, outputs: int
) -> ModelProto:
    """Make a model from ``x [batch, columns]`` to ``y [batch, outputs]``, in the tensors' element type."""
    element_type = tensors[0].data_type
    x = helper.make_tensor_value_info("x", element_type, ["batch", columns])
    y = helper.make_tensor_value_info("y", element_type, ["batch", outputs])
    operator = subject().operator
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(operator.domain, operator.since_version)]
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
        operator = subject().operator
        return helper.make_node(operator.name, inputs, [output], domain=operator.domain)
    return subject().fused(inputs, output)
