"""What version 2 brings to the `BenchKit`: exact results, and how others compute the activations. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from exporter.torch_ops.workloads.bench import Array, BenchActivation, ExactAndBound, Layer
from ort_ops.numerics.bound import Arithmetic
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType
from ort_ops.operators.mylinear.version_2.activations import ACTIVATIONS as DESCRIBED
from ort_ops.operators.mylinear.version_2.error_bound import activation_bound
from ort_ops.operators.mylinear.version_2.reference import linear_activation_float64

_FUSED = "FusedGemm"


def exact_activation(x: Array, layer: Layer, activation: str, arithmetic: Arithmetic) -> ExactAndBound:
    """Return the exact result of one layer in float64, and how far a right kernel may be from it."""
    weight, bias = layer
    bound = activation_bound(x, weight, bias, activation, ELEMENT_TYPES[x.dtype.name], arithmetic)
    with np.errstate(all="ignore"):
        return linear_activation_float64(x, weight, bias, activation), bound.error


def _one(op_type: str, total: str, result: str, **attributes: Any) -> list[NodeProto]:
    return [helper.make_node(op_type, [total], [result], **attributes)]


def _times_sigmoid(total: str, result: str) -> list[NodeProto]:
    """Return x Sigmoid(x), as torch exports SiLU."""
    gate = f"{result}_gate"
    return [*_one("Sigmoid", total, gate), helper.make_node("Mul", [total, gate], [result])]


def _times_sigmoid_error(total: Array, error: Array, element_type: ElementType) -> Array:
    """Return how much further than SiLU in one piece x Sigmoid(x) may be, for x within an error of the sum.

    Where x is negative, a right Sigmoid may be off by a part of 1, and so the product by that part of x, however small
    SiLU itself is there. The operator's own error does not grow with x.
    """
    accumulator = ELEMENT_TYPES[element_type.accumulator]
    sigmoid, silu = DESCRIBED["sigmoid"], DESCRIBED["silu"]
    with np.errstate(all="ignore"):
        gate = sigmoid.evaluation_error(total - error, sigmoid.exact(total + error), accumulator)
        result = silu.exact(total)
        product = (np.abs(total) + error) * gate + accumulator.unit_roundoff * np.abs(result)
        further: Array = np.fmax(product - silu.evaluation_error(total, result, accumulator), 0.0)
        return further


def _of_torch(name: str) -> Callable[[], Callable[[Any], Any]]:
    def find() -> Callable[[Any], Any]:
        from exporter.operators.mylinear.version_2.activations import ACTIVATIONS as OF_TORCH

        return OF_TORCH[name].apply

    return find


ACTIVATIONS = {
    "relu": BenchActivation(partial(_one, "Relu"), _of_torch("relu"), _FUSED),
    "gelu": BenchActivation(partial(_one, "Gelu"), _of_torch("gelu")),
    "gelu_tanh": BenchActivation(partial(_one, "Gelu", approximate="tanh"), _of_torch("gelu_tanh")),
    "silu": BenchActivation(_times_sigmoid, _of_torch("silu"), nodes_error=_times_sigmoid_error),
    "sigmoid": BenchActivation(partial(_one, "Sigmoid"), _of_torch("sigmoid"), _FUSED, is_on_grid=False),
    "tanh": BenchActivation(partial(_one, "Tanh"), _of_torch("tanh"), _FUSED, is_on_grid=False),
}
"""By name; those on the grid first."""
