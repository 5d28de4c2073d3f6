"""The error function in float64, for which onnxruntime has no kernel, by polynomials.

Below 1 it is x times its Taylor series in x^2. From there to 6, beyond which it is 1, it is 1 - exp(-x^2) g(x), where
the slowly falling g = exp(x^2) erfc(x) is a polynomial in t = 2.5 (x - 4) / (x + 4) + 0.5, which goes from -1 to 1. The
polynomial goes through Chebyshev's points, computed with 50 digits; as it stands it is exact to 0.02 roundings of 1. A
test compares the whole with the error function of the C library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset18 as op

_TAYLOR = [2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(20)]
_TAIL = (
    *(0.19907263099386563, -0.14812992991458332, 0.05589108556608049, -0.018078437227012044),
    *(0.004990286041083489, -0.0011615374405681913, 0.000222596431819648, -3.346127705796729e-05),
    *(3.4988173499838224e-06, -1.4320651859476212e-07, -2.5771418039928505e-08, 4.95652161891349e-09),
    *(-1.0704707859284294e-10, -6.924297045025159e-11, 6.592148646567887e-12, 8.371566770408848e-13),
    *(-1.566212656901322e-13, -1.0025136123361823e-14, 3.0168192035593366e-15),
)
_FIRST, _LAST = 1.0, 6.0


def erf(x: Any) -> Any:
    """Return the error function of a float64 value of a graph."""
    size = op.Abs(x)
    square = op.Min(op.Mul(x, x), _number(1.0))
    inner = op.Mul(x, _horner(_TAYLOR, square))
    capped = op.Max(op.Min(size, _number(_LAST)), _number(_FIRST))
    ratio = op.Div(op.Sub(capped, _number(4.0)), op.Add(capped, _number(4.0)))
    place = op.Add(op.Mul(ratio, _number(2.5)), _number(0.5))
    rest = op.Mul(op.Exp(op.Neg(op.Mul(capped, capped))), _horner(_TAIL, place))
    outer = op.Mul(op.Sign(x), op.Sub(_number(1.0), rest))
    return op.Where(op.Less(size, _number(_FIRST)), inner, outer)


def gelu(x: Any) -> Any:
    """Return ``x / 2 (1 + erf(x / sqrt(2)))``."""
    return op.Mul(op.Mul(x, _number(0.5)), op.Add(erf(op.Mul(x, _number(math.sqrt(0.5)))), _number(1.0)))


def _horner(coefficients: Sequence[float], x: Any) -> Any:
    found: Any = _number(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        found = op.Add(op.Mul(found, x), _number(coefficient))
    return found


def _number(value: float) -> Any:
    constant: Any = ir.tensor(np.array(value, np.float64))
    return op.Constant(value=constant)
