"""Put other operators in the place of those that onnxruntime cannot compute in float64, so that it can be a witness.

It has no Erf for float64, so no Gelu either, and it computes Gelu's approximation with constants of float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx
from onnx import TensorProto, helper

from ort_ops.models.graphs import scopes
from ort_ops.numerics.error_function import erf_formula


def with_float64_nodes(model: onnx.ModelProto) -> None:
    """Write out Erf and Gelu of a float64 model in operators that onnxruntime has for float64, in place."""
    for scope in scopes(model):
        nodes = scope.container.node
        if not any(_is_replaced(node) for node in nodes):
            continue
        made = [new for node in nodes for new in (_written_out(node) if _is_replaced(node) else [node])]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in made]
        del nodes[:]
        nodes.extend(copies)


def _is_replaced(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type in ("Erf", "Gelu")


def _written_out(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    builder = _Builder(node.output[0])
    (x,) = node.input
    if node.op_type == "Erf":
        result = erf_formula(x, builder, builder.number)
    else:
        approximate = next((a.s for a in node.attribute if a.name == "approximate"), b"none")
        if approximate == b"tanh":
            cube = builder.Mul(builder.Mul(builder.Mul(x, x), x), builder.number(0.044715))
            curve = builder.Tanh(builder.Mul(builder.Add(x, cube), builder.number(math.sqrt(2 / math.pi))))
        else:
            curve = erf_formula(builder.Mul(x, builder.number(math.sqrt(0.5))), builder, builder.number)
        half = builder.Mul(x, builder.number(0.5))
        result = builder.Mul(half, builder.Add(curve, builder.number(1.0)))
    assert builder.nodes[-1].output[0] == result
    builder.nodes[-1].output[0] = node.output[0]
    return builder.nodes


class _Builder:
    """Collect nodes; each operator is a method, from names of values to that of its result."""

    def __init__(self, name: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._name = name

    def __getattr__(self, op_type: str) -> Callable[..., str]:
        return lambda *inputs: self._add(op_type, inputs)

    def number(self, value: float) -> str:
        """Return the name of a float64 constant."""
        return self._add("Constant", (), value=helper.make_tensor("", TensorProto.DOUBLE, [], [value]))

    def _add(self, op_type: str, inputs: tuple[str, ...], **attributes: Any) -> str:
        name = f"{self._name}/float64/{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name
