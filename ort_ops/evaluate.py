"""Evaluate a whole model in float64, with a bound on how far any right runtime may be from it.

Each operator's rule gives the exact result's error in terms of its inputs' errors (a running error analysis),
so that the outputs of two runtimes can be held against the same derived bound, through any number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.contract import MYLINEAR
from ort_ops.error_bound import linear_error_bound
from ort_ops.model import ModelError
from ort_ops.operator import ElementType

Array = NDArray[Any]


class NoRuleError(ModelError):
    """A model with an operator that `evaluate` has no rule for."""


@dataclass(frozen=True)
class Value:
    """A float64 value, how far a runtime may be from it, and the element type that the model holds it in."""

    exact: Array
    error: Array
    element_type: ElementType | None
    """None for integers and booleans, which are exact."""

    @property
    def unit_roundoff(self) -> float:
        return self.element_type.unit_roundoff if self.element_type else 0.0


@dataclass(frozen=True)
class LinearCall:
    """What one MYLINEAR node received, as float64 arrays."""

    label: str
    x: Array
    weight: Array
    bias: Array | None
    element_type: ElementType


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: the outputs by name, the calls of MYLINEAR in the order of the nodes, and every value."""

    outputs: dict[str, Value]
    calls: list[LinearCall]
    values: dict[str, Value]


def evaluate(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> Evaluation:
    """Run the model in float64 NumPy and bound the error that its element types allow.

    Args:
        model: whose nodes are MYLINEAR or among `SUPPORTED`.
        inputs: by name, in the model's own dtypes.

    Returns: the outputs with their bounds, and what each MYLINEAR node received.
    Raises: ModelError for an operator without a rule here.
    """
    values: dict[str, Value] = {name: _value(array) for name, array in inputs.items()}
    for tensor in model.graph.initializer:
        values.setdefault(tensor.name, _value(numpy_helper.to_array(tensor)))
    calls: list[LinearCall] = []
    for node in model.graph.node:
        arguments = [values[name] if name else None for name in node.input]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if (node.domain, node.op_type) == (MYLINEAR.domain, MYLINEAR.name):
            result, call = _linear(node, arguments)
            calls.append(call)
        elif node.domain in ("", "ai.onnx") and node.op_type in _RULES:
            with np.errstate(all="ignore"):
                result = _RULES[node.op_type](arguments, attributes)
        else:
            operator = f"{node.domain or 'ai.onnx'}::{node.op_type}"
            raise NoRuleError(f"there is no error bound for operator '{operator}' (node '{node.name}')")
        values[node.output[0]] = result
    return Evaluation({output.name: values[output.name] for output in model.graph.output}, calls, values)


def _value(array: Array) -> Value:
    element_type = next((t for t in MYLINEAR.element_types if t.name == array.dtype.name), None)
    exact = array.astype(np.float64) if element_type else array
    return Value(exact, np.zeros(array.shape), element_type)


def _linear(node: onnx.NodeProto, arguments: list[Value | None]) -> tuple[Value, LinearCall]:
    x, weight, bias = (*arguments, None)[:3]
    assert x is not None
    assert weight is not None
    assert x.element_type is not None
    bias_array = None if bias is None else bias.exact
    MYLINEAR.infer_shape([x.exact.shape, weight.exact.shape, None if bias_array is None else bias_array.shape])
    call = LinearCall(node.name or node.output[0], x.exact, weight.exact, bias_array, x.element_type)
    with np.errstate(all="ignore"):
        exact = np.matmul(x.exact, weight.exact.T)
        if bias_array is not None:
            exact = exact + bias_array
        error = linear_error_bound(x.exact, weight.exact, bias_array, x.element_type, x.error)
    return Value(exact, error, x.element_type), call


def _rounded(exact: Array, inherited: Array, like: Value, roundings: int = 1) -> Value:
    """A result whose own computation adds ``roundings`` errors of the element type."""
    size = np.abs(exact) + inherited
    smallest = like.element_type.smallest if like.element_type else 0.0
    return Value(exact, inherited + roundings * (like.unit_roundoff * size + smallest), like.element_type)


def _add(a: Value, b: Value) -> Value:
    return _rounded(a.exact + b.exact, a.error + b.error, a)


def _subtract(a: Value, b: Value) -> Value:
    return _rounded(a.exact - b.exact, a.error + b.error, a)


def _multiply(a: Value, b: Value) -> Value:
    inherited = np.abs(a.exact) * b.error + np.abs(b.exact) * a.error + a.error * b.error
    return _rounded(a.exact * b.exact, inherited, a)


def _divide(a: Value, b: Value) -> Value:
    exact = a.exact / b.exact
    room = np.abs(b.exact) - b.error
    inherited = np.where(room > 0, (a.error + np.abs(exact) * b.error) / room, np.inf)
    return _rounded(exact, np.where((a.error == 0) & (b.error == 0), 0.0, inherited), a)


def _lipschitz(function: Callable[[Array], Array], constant: float, roundings: int) -> Callable[..., Value]:
    """The rule of an elementwise function that changes by at most ``constant`` times its input's change."""

    def rule(a: Value) -> Value:
        return _rounded(function(a.exact), constant * a.error, a, roundings)

    return rule


def _cast(arguments: list[Any], attributes: dict[str, Any]) -> Value:
    a = arguments[0]
    to = next((t for t in MYLINEAR.element_types if t.onnx_type == attributes["to"]), None)
    if to is None:
        raise NoRuleError("there is no error bound for a cast to integers")
    return _rounded(a.exact.astype(np.float64), a.error, Value(a.exact, a.error, to))


def _structural(function: Callable[..., Array]) -> Callable[[list[Any], dict[str, Any]], Value]:
    """The rule of an operator that moves elements: the errors move with them."""

    def rule(arguments: list[Any], attributes: dict[str, Any]) -> Value:
        a, *rest = arguments
        others = [None if value is None else value.exact for value in rest]
        return Value(function(a.exact, *others, **attributes), function(a.error, *others, **attributes), a.element_type)

    return rule


def _constant(arguments: list[Any], attributes: dict[str, Any]) -> Value:
    if "value" not in attributes:
        raise NoRuleError(f"there is no rule for a Constant with {', '.join(attributes) or 'nothing'}")
    return _value(numpy_helper.to_array(attributes["value"]))


def _elementwise(rule: Callable[..., Value]) -> Callable[[list[Any], dict[str, Any]], Value]:
    return lambda arguments, attributes: rule(*arguments)


def _flatten(a: Array, axis: int = 1) -> Array:
    rows = int(np.prod(a.shape[:axis]))
    return a.reshape(rows, int(np.prod(a.shape[axis:])))


def _reshape(a: Array, shape: Array, allowzero: int = 0) -> Array:
    sizes = [a.shape[i] if size == 0 and not allowzero else int(size) for i, size in enumerate(shape)]
    return a.reshape(sizes)


def _logistic(a: Array) -> Array:
    return np.where(a >= 0, 1 / (1 + np.exp(-np.abs(a))), np.exp(-np.abs(a)) / (1 + np.exp(-np.abs(a))))


_RULES: dict[str, Callable[[list[Any], dict[str, Any]], Value]] = {
    "Add": _elementwise(_add),
    "Sub": _elementwise(_subtract),
    "Mul": _elementwise(_multiply),
    "Div": _elementwise(_divide),
    "Relu": _elementwise(_lipschitz(lambda a: np.maximum(a, 0), 1.0, 0)),
    # Runtimes evaluate these two by approximations; eight units in the last place cover what they promise.
    "Tanh": _elementwise(_lipschitz(np.tanh, 1.0, 8)),
    "Sigmoid": _elementwise(_lipschitz(_logistic, 0.25, 8)),
    "Cast": _cast,
    "Constant": _constant,
    "Identity": _structural(lambda a: a),
    "Flatten": _structural(_flatten),
    "Reshape": _structural(_reshape),
    "Transpose": _structural(lambda a, perm=None: np.transpose(a, perm)),
}
SUPPORTED = frozenset(_RULES)
"""Standard operators that `evaluate` has a rule for."""
