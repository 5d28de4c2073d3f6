"""MYLINEAR as a `BenchKit`: its exact result, and the peers that compute the same. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from exporter.torch_ops.workloads.bench import Array, BenchKit, Layer
from ort_ops.numerics.bound import Arithmetic
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.error_bound import linear_bound
from ort_ops.operators.mylinear.reference import linear_float64


def _exact(
    x: Array, layers: Sequence[Layer], arithmetic: Arithmetic
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def _matmul_and_add(weight: Array, bias: Array) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return MatMul with W transposed beforehand, and Add."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"], name="linear"),
        helper.make_node("Add", ["product", "bias"], ["y"], name="bias"),
    ]
    transposed = np.ascontiguousarray(weight.T)
    return nodes, [numpy_helper.from_array(transposed, "weight"), numpy_helper.from_array(bias, "bias")]


def _torch_function() -> Callable[..., Any]:
    import torch

    return torch.nn.functional.linear


KIT = BenchKit(MYLINEAR, _exact, _gemm, _matmul_and_add, _torch_function)
