"""What version 2 brings to the `BenchKit`: exact results, and how others compute the activations. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from exporter.torch_ops.workloads.bench import Array, BenchActivation, ExactAndBound, Layer
from ort_ops.numerics.bound import Arithmetic
from ort_ops.opdef.element_types import ELEMENT_TYPES
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


def _of_torch(name: str) -> Callable[[], Callable[[Any], Any]]:
    def find() -> Callable[[Any], Any]:
        from exporter.operators.mylinear.version_2.activations import ACTIVATIONS as OF_TORCH

        return OF_TORCH[name].apply

    return find


ACTIVATIONS = {
    "relu": BenchActivation(partial(_one, "Relu"), _of_torch("relu"), _FUSED),
    "gelu": BenchActivation(partial(_one, "Gelu"), _of_torch("gelu")),
    "gelu_tanh": BenchActivation(partial(_one, "Gelu", approximate="tanh"), _of_torch("gelu_tanh")),
    "silu": BenchActivation(_times_sigmoid, _of_torch("silu")),
    "sigmoid": BenchActivation(partial(_one, "Sigmoid"), _of_torch("sigmoid"), _FUSED, is_on_grid=False),
    "tanh": BenchActivation(partial(_one, "Tanh"), _of_torch("tanh"), _FUSED, is_on_grid=False),
}
"""By name; those on the grid first."""
