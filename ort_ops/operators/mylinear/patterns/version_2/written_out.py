"""Recognize an activation that is written out in elementwise operators: Gelu by Erf or Tanh, SiLU. No torch.

Exporters and optimizers write them in dozens of orders. So the order is not looked at: what lies between one value and
the result is evaluated in float64 and compared with each activation. Constants such as the square root of 2 are rounded
in a file; each is taken for the number that it is the nearest one to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ort_ops.numerics.error_function import erf
from ort_ops.operators.mylinear.patterns.version_2.causes import Cause
from ort_ops.operators.mylinear.patterns.version_2.forms import Form, Lookalike
from ort_ops.operators.mylinear.version_2.activations import ACTIVATIONS, activated
from ort_ops.operators.mylinear.version_2.contract import NONE
from ort_ops.rewrite.graph.constants import DTYPES, Constant, is_standard
from ort_ops.rewrite.graph.folding import resolve
from ort_ops.rewrite.reasons import Reason

Array = NDArray[Any]

_OPERATIONS: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Div": np.divide,
    "Erf": erf,
    "Exp": np.exp,
    "Identity": np.positive,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Sub": np.subtract,
    "Tanh": np.tanh,
}
_CURVES = {"Erf": "gelu", "Tanh": "gelu_tanh", "Sigmoid": "silu", "Exp": "silu"}
"""What makes a function more than a polynomial, and what it is then written like."""
_LAST = ("Add", "Div", "Mul")
_MAX_NODES = 16
_NUMBERS = (
    *(math.sqrt(2), math.sqrt(0.5), math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi), 0.044715),
    *(0.044715 * math.sqrt(2 / math.pi), 2 * 0.044715 * math.sqrt(2 / math.pi), 1.702),
)
_PLACES = np.concatenate([np.linspace(-12, 12, 1201), np.array([-40.0, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 40.0])])
_ALLOWED = 2.0**-44
"""Of the size of a value: hundred times what the evaluation of such a form in float64 is off by at most."""


def find_written_out(node: ir.Node) -> Form | Lookalike | None:
    """Return the activation whose last node this is, or why it only looks like one; None for any other node."""
    if not is_standard(node, *_LAST):
        return None
    cone = _Cone.of(node)
    if cone is None:
        return None
    likely = next((_CURVES[inner.op_type] for inner in cone.nodes if inner.op_type in _CURVES), None)
    if likely is None:
        return None
    with np.errstate(all="ignore"):
        got = cone.evaluate(_PLACES)
        for name in (name for name in ACTIVATIONS if name != NONE):
            if np.all(np.abs(got - activated(_PLACES, name)) <= _ALLOWED * np.maximum(np.abs(_PLACES), 1)):
                return Form(name, cone.value, tuple(cone.nodes), cone.constants)
        ratio = got / activated(_PLACES, likely)
    if np.all(np.abs(ratio[(_PLACES > 0.5) & (_PLACES < 12)] - 1) < 1e-2):
        return Lookalike(Reason(Cause.OTHER_CONSTANTS, {"activation": likely}), cone.value)
    return None


@dataclass
class _Cone:
    """The elementwise nodes between one value and a result.

    Attributes:
        value: the one that is no constant.
        nodes: in their order in the graph.
        constants: names of rounded constants, and what they stand for.
    """

    value: ir.Value
    nodes: list[ir.Node]
    constants: dict[str, float] = field(default_factory=dict)
    _numbers: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, last: ir.Node) -> _Cone | None:
        """Return what lies before a node, up to the one value that all of it hangs on; None if there is none."""
        numbers: dict[int, float] = {}
        constants: dict[str, float] = {}
        nodes: dict[int, ir.Node] = {id(last): last}
        leaves: list[ir.Value] = []
        pending = [last]
        while pending:
            for value in pending.pop().inputs:
                if value is None:
                    return None
                constant = resolve(value)
                if constant is not None:
                    number = _number(constant)
                    if number is None:
                        return None
                    numbers[id(value)] = number
                    if number != float(constant.array().reshape(-1)[0]):
                        constants[constant.source.name or ""] = number
                    continue
                producer = value.producer()
                is_inner = producer is not None and is_standard(producer, *_OPERATIONS) and producer.graph is last.graph
                if not is_inner:
                    if all(value is not leaf for leaf in leaves):
                        leaves.append(value)
                elif id(producer) not in nodes:
                    assert producer is not None
                    nodes[id(producer)] = producer
                    pending.append(producer)
            if len(nodes) > _MAX_NODES or len(leaves) > 1:
                return None
        if len(leaves) != 1:
            return None
        return cls(leaves[0], list(_in_order(last, nodes)), constants, numbers)

    def evaluate(self, places: Array) -> Array:
        """Return the result for these values, in float64."""
        known: dict[int, Any] = {id(self.value): places, **self._numbers}
        for node in self.nodes:
            arguments = [known[id(value)] for value in node.inputs]
            known[id(node.outputs[0])] = _OPERATIONS[node.op_type](*arguments)
        result: Array = known[id(self.nodes[-1].outputs[0])]
        return result


def _in_order(last: ir.Node, nodes: dict[int, ir.Node]) -> Iterator[ir.Node]:
    """Yield the nodes, each after those that it needs."""
    done: set[int] = set()
    stack = [(last, False)]
    while stack:
        node, is_ready = stack.pop()
        if is_ready:
            yield node
        elif id(node) not in done:
            done.add(id(node))
            stack.append((node, True))
            producers = [value.producer() for value in node.inputs if value is not None]
            stack += [(p, False) for p in producers if p is not None and id(p) in nodes and id(p) not in done]


def _number(constant: Constant) -> float | None:
    """Return the number that a constant of one element stands for; None for any other constant."""
    is_integer = constant.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    if constant.size != 1 or len(constant.shape) > 1 or not (is_integer or constant.dtype in DTYPES):
        return None
    stored = constant.array().reshape(-1)[0]
    for number in _NUMBERS:
        if np.array(number).astype(stored.dtype) == stored:
            return number
    return float(stored)
