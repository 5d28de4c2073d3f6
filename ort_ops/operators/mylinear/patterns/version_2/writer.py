"""Write an activation in standard operators behind a node. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ort_ops.numerics.error_function import erf_formula
from ort_ops.rewrite.graph.editor import Editor

_OPSET_OF_GELU = 20


class Writer:
    """Write the nodes of one activation.

    Attributes:
        made: the nodes, in their order in the graph.
        constants: names of rounded constants, with the number that each stands for.
    """

    def __init__(self, editor: Editor, graph: ir.Graph, before: ir.Node, name: str, dtype: ir.DataType | None) -> None:
        """Write behind ``before``, for a result called ``name`` of element type ``dtype``."""
        self.made: list[ir.Node] = []
        self.constants: dict[str, float] = {}
        self._editor, self._graph, self._last, self._name = editor, graph, before, name
        self._dtype = dtype or ir.DataType.FLOAT
        self._opset = min((opset for opset in editor.opsets if opset is not None), default=0)

    def write(self, activation: str, x: ir.Value) -> ir.Value:
        """Write the activation of ``x``, and return its result."""
        if activation in ("relu", "sigmoid", "tanh"):
            return self._node(activation.capitalize(), x)
        if activation == "silu":
            return self._node("Mul", x, self._node("Sigmoid", x))
        is_exact = activation == "gelu"
        if self._opset >= _OPSET_OF_GELU and self._dtype != ir.DataType.DOUBLE:
            return self._node("Gelu", x, approximate="none" if is_exact else "tanh")
        if is_exact:
            scaled = self._node("Mul", x, self._number(math.sqrt(0.5), "sqrt_half"))
            is_double = self._dtype == ir.DataType.DOUBLE  # onnxruntime has no Erf for it
            curve = erf_formula(scaled, self, self._number) if is_double else self._node("Erf", scaled)
        else:
            cube = self._node("Mul", self._node("Mul", x, x), x)
            bent = self._node("Add", x, self._node("Mul", cube, self._number(0.044715, "gelu_cubic")))
            curve = self._node("Tanh", self._node("Mul", bent, self._number(math.sqrt(2 / math.pi), "gelu_scale")))
        half = self._node("Mul", x, self._number(0.5, "half"))
        return self._node("Mul", half, self._node("Add", curve, self._number(1.0, "one")))

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        """Return a function that adds a node, as `erf_formula` calls it."""
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        return lambda *inputs: self._node(op_type, *inputs)

    def _node(self, op_type: str, *inputs: ir.Value, **attributes: str) -> ir.Value:
        node = ir.node(op_type, inputs, attributes)
        self._graph.insert_after(self._last, node)
        self._last = node
        self.made.append(node)
        (value,) = node.outputs
        value.name = self._editor.new_name(f"{self._name}_{op_type.lower()}")
        value.type, value.shape = inputs[0].type, inputs[0].shape
        return value

    def _number(self, number: float, name: str = "number") -> ir.Value:
        value = self._editor.store_filled([], number, self._dtype, self._graph, name)
        assert value.const_value is not None
        if float(np.asarray(value.const_value.numpy(), np.float64)) != number:
            self.constants[value.name or ""] = number
        return value
