"""Take chance out of a step, in the graph and in torch alike, so that the two can be compared.

A dropout multiplies by noise: 1 / (1 - p) where a number is kept, else 0. Here it keeps all of them. Any other random
operation is refused by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from exporter.errors import ExportError
from ort_ops.models.graphs import all_nodes

_BERNOULLI = frozenset({"bernoulli", "bernoulli_"})
_LIKE = "RandomUniformLike"
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def refuse_other_randomness(graph: fx.GraphModule) -> None:
    """Check that a recorded graph draws random numbers for dropouts alone. Raises: ExportError naming the operation."""
    for target, name in random_operations(graph):
        if not _is_noise(target):
            raise ExportError(
                f"the model draws random numbers by {name}, so that a step of the file cannot be compared with torch; "
                "draw them outside, and make them an input (dropouts may stay)"
            )


def refuse_randomness(graph: fx.GraphModule) -> None:
    """Check that a graph recorded in eval mode draws no random numbers. Raises: ExportError naming the operation."""
    for _, name in random_operations(graph):
        raise ExportError(
            f"the model draws random numbers by {name} in eval mode, so that it cannot be compared with torch; "
            "draw them outside and make them an input, or give a dropout training=self.training"
        )


def random_operations(graph: fx.GraphModule) -> Iterator[tuple[Any, str]]:
    """Yield the operations of a recorded graph that draw random numbers, each with its name in torch."""
    for node in graph.graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags:
            yield target, target.__name__.partition(".")[0].rstrip("_")


def _is_noise(target: Any) -> bool:
    """Whether an operation draws 0 and 1 with one probability, as a dropout does."""
    name, _, overload = target.__name__.partition(".")
    return name in _BERNOULLI and overload in ("p", "float")


class KeepAll(TorchDispatchMode):
    """Let torch's dropouts keep all numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(function, torch._ops.OpOverload) and _is_noise(function):
            tensor: Tensor = args[0]
            return tensor.fill_(1) if function.__name__.startswith("bernoulli_") else torch.ones_like(tensor)
        return function(*args, **(kwargs or {}))


def keep_all(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model whose dropouts keep all numbers; the model itself if it has none.

    The exporter draws uniform numbers from 0 to 1 and keeps what is below 1 - p; here they are all 0.
    """
    if not any(node.op_type in _RANDOM for node in all_nodes(model)):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    nodes = []
    for node in graph.node:
        if node.op_type != _LIKE:
            nodes.append(node)
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        dtype = helper.tensor_dtype_to_np_dtype(attributes.get("dtype", onnx.TensorProto.FLOAT))
        shape = f"{node.output[0]}/shape"
        zero = numpy_helper.from_array(np.zeros(1, dtype))
        nodes.append(helper.make_node("Shape", [node.input[0]], [shape]))
        nodes.append(helper.make_node("ConstantOfShape", [shape], list(node.output), value=zero))
    kept = onnx.GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(kept.node)
    left = [node.op_type for node in all_nodes(copy) if node.op_type in _RANDOM]
    if left:
        raise ExportError(f"the graph draws random numbers by {left[0]}, so that it cannot be compared with torch")
    return copy
