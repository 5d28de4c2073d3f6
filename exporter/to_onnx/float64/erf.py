"""The error function in float64, for which onnxruntime has no kernel, as nodes of a graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset18 as op

from ort_ops.numerics.error_function import erf_formula


def erf(x: Any) -> Any:
    """Return the error function of a float64 value of a graph."""
    return erf_formula(x, op, _number)


def gelu(x: Any) -> Any:
    """Return ``x / 2 (1 + erf(x / sqrt(2)))``."""
    return op.Mul(op.Mul(x, _number(0.5)), op.Add(erf(op.Mul(x, _number(math.sqrt(0.5)))), _number(1.0)))


def _number(value: float) -> Any:
    constant: Any = ir.tensor(np.array(value, np.float64))
    return op.Constant(value=constant)
