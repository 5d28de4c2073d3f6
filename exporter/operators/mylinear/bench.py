"""MYLINEAR as a `BenchKit`: its exact result, and the peers that compute the same. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from exporter.operators.mylinear.version_2.bench import ACTIVATIONS, exact_activation
from exporter.torch_ops.workloads.bench import Array, BenchKit, ExactAndBound, Layer
from ort_ops.numerics.bound import Arithmetic
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.error_bound import linear_bound
from ort_ops.operators.mylinear.reference import linear_float64
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2, NARROW_WEIGHTS


def _exact(x: Array, layers: Sequence[Layer], arithmetic: Arithmetic) -> ExactAndBound:
    element_type = MYLINEAR.element_type(x.dtype.name)
    expected, error = x.astype(np.float64), None
    for weight, bias in layers:
        # The value between two layers is rounded to the element type, for which the bound has room.
        error = linear_bound(expected, weight, bias, element_type, error, arithmetic).error
        expected = linear_float64(expected, weight.astype(np.float64), bias.astype(np.float64))
    assert error is not None
    return expected, error


def _gemm(inputs: Sequence[str], output: str) -> NodeProto:
    return helper.make_node("Gemm", inputs, [output], transB=1)


def _matmul_and_add(weight: Array, bias: Array, output: str) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return MatMul with W transposed beforehand, and Add."""
    names = {name: f"{output}_{name}" for name in ("weight", "bias", "product")}
    nodes = [
        helper.make_node("MatMul", ["x", names["weight"]], [names["product"]]),
        helper.make_node("Add", [names["product"], names["bias"]], [output]),
    ]
    transposed = np.ascontiguousarray(weight.T)
    return nodes, [numpy_helper.from_array(transposed, names["weight"]), numpy_helper.from_array(bias, names["bias"])]


def _torch_function() -> Callable[..., Any]:
    import torch

    return torch.nn.functional.linear


KIT = BenchKit(
    MYLINEAR,
    _exact,
    _gemm,
    _matmul_and_add,
    _torch_function,
    newer=MYLINEAR_2,
    newer_exact=exact_activation,
    activations=ACTIVATIONS,
    narrow_weights=NARROW_WEIGHTS[::-1],
)
