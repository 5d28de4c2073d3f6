"""Make the models that are measured: layers in a chain or side by side, of our nodes, of ONNX's own, or of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from exporter.bench.backends.subject import subject
from exporter.bench.measure.cells import NO_ACTIVATION, OURS
from exporter.torch_ops.workloads.bench import Array, Layer
from ort_ops.models import make
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.opdef.onnx_objects import make_node
from ort_ops.opdef.operator import Operator

_OPSET, _IR_VERSION = 20, 9
PAIR = (OURS, "gemm")


def chain_model(backend: str, layers: Sequence[Layer]) -> ModelProto:
    """Make a model from ``x [batch, K]`` to ``y`` with one node for each (weight, bias): our operator, or Gemm.

    A weight that is narrower than its bias is stored as it is for ours, and widened for Gemm.
    """
    names = ["x", *(f"h{i}" for i in range(1, len(layers))), "y"]
    return _model(backend, layers, NO_ACTIVATION, names[:-1], names[1:], names[-1:])


def layers_model(backend: str, layers: Sequence[Layer], activation: str = NO_ACTIVATION) -> ModelProto:
    """Make a model of layers side by side, all from ``x [batch, K]``, to ``y``, or to ``y0``, ``y1`` and so on.

    Args:
        backend: ``ours``, ``gemm`` or ``matmul``; the latter two take narrow weights widened, and an activation as
            nodes of its own, which onnxruntime may fuse.
    """
    names = ["y"] if len(layers) == 1 else [f"y{i}" for i in range(len(layers))]
    return _model(backend, layers, activation, ["x"] * len(layers), names, names)


def one_node_model(weight: Array, bias: Array | None) -> ModelProto:
    """Make a model of one node of our operator, ``x [batch, K]`` to ``y``."""
    x_shape = ["batch", weight.shape[1]]
    return make.make_model(subject().operator, [x_shape, weight, bias], name="linear", with_function=False)


def save_model(model: ModelProto, path: Path, *, is_external: bool) -> None:
    """Write the model with its weights inside, or in one file beside it."""
    if is_external:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    else:
        onnx.save(model, path)


def random_layers(size: int, number: int, dtype: np.dtype[Any], weight: np.dtype[Any] | None = None) -> list[Layer]:
    """Draw square layers that keep the magnitude of their input; the weights of another dtype if one is given."""
    rng = np.random.default_rng(7)
    scale = np.float32(1 / np.sqrt(size))
    return [
        (
            (rng.standard_normal((size, size), np.float32) * scale).astype(dtype if weight is None else weight),
            rng.standard_normal(size, np.float32).astype(dtype),
        )
        for _ in range(number)
    ]


def _model(
    backend: str,
    layers: Sequence[Layer],
    activation: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    results: Sequence[str],
) -> ModelProto:
    """Make a model of a layer from each input to each output, and of x to the results."""
    kit = subject()
    needs_newer = activation != NO_ACTIVATION or any(weight.dtype != bias.dtype for weight, bias in layers)
    operator = kit.newer if needs_newer and kit.newer is not None else kit.operator
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    for layer, source, target in zip(layers, inputs, outputs, strict=True):
        if backend == OURS:
            more_nodes, more_tensors = _ours(operator, layer, activation, source, target)
        else:
            more_nodes, more_tensors = _plain(backend, layer, activation, source, target)
        nodes += more_nodes
        tensors += more_tensors
    element_type = ELEMENT_TYPES[layers[0][1].dtype.name].onnx_type
    x = helper.make_tensor_value_info("x", element_type, ["batch", layers[0][0].shape[1]])
    size = layers[-1][0].shape[0]
    values = [helper.make_tensor_value_info(name, element_type, ["batch", size]) for name in results]
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(operator.domain, operator.since_version)]
    graph = helper.make_graph(nodes, "layers", [x], values, tensors)
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def _ours(
    operator: Operator, layer: Layer, activation: str, source: str, target: str
) -> tuple[list[NodeProto], list[TensorProto]]:
    names, tensors = _stored(*layer, target)
    attributes = {} if activation == NO_ACTIVATION else {"activation": activation}
    return [make_node(operator, [source, *names], [target], **attributes)], tensors


def _plain(
    backend: str, layer: Layer, activation: str, source: str, target: str
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return ONNX's own nodes of a layer, and what they store."""
    kit = subject()
    weight, bias = layer[0].astype(layer[1].dtype, copy=False), layer[1]
    total = target if activation == NO_ACTIVATION else f"{target}_sum"
    if backend == "gemm":
        names, tensors = _stored(weight, bias, target)
        nodes = [kit.fused([source, *names], total)]
    else:
        nodes, tensors = kit.unfused(weight, bias, total)
    return nodes + ([] if activation == NO_ACTIVATION else kit.activations[activation].nodes(total, target)), tensors


def _stored(weight: Array, bias: Array, target: str) -> tuple[list[str], list[TensorProto]]:
    names = [f"{target}_weight", f"{target}_bias"]
    return names, [numpy_helper.from_array(weight, names[0]), numpy_helper.from_array(bias, names[1])]
