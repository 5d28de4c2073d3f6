"""The error function in float64: of arrays, and as a formula in operators that onnxruntime has for float64.

onnxruntime has no kernel of Erf for float64. The formula: below 1 it is x times its Taylor series in x^2. From there to
6, beyond which it is 1, it is 1 - exp(-x^2) g(x), where the slowly falling g = exp(x^2) erfc(x) is a polynomial in
t = 2.5 (x - 4) / (x + 4) + 0.5, which goes from -1 to 1. The polynomial goes through Chebyshev's points, computed with
50 digits; as it stands it is exact to 0.02 roundings of 1. A test compares the whole with the error function of the C
library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_TAYLOR = [2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(20)]
_TAIL = (
    *(0.19907263099386563, -0.14812992991458332, 0.05589108556608049, -0.018078437227012044),
    *(0.004990286041083489, -0.0011615374405681913, 0.000222596431819648, -3.346127705796729e-05),
    *(3.4988173499838224e-06, -1.4320651859476212e-07, -2.5771418039928505e-08, 4.95652161891349e-09),
    *(-1.0704707859284294e-10, -6.924297045025159e-11, 6.592148646567887e-12, 8.371566770408848e-13),
    *(-1.566212656901322e-13, -1.0025136123361823e-14, 3.0168192035593366e-15),
)
_FIRST, _LAST = 1.0, 6.0


def erf_formula(x: Any, op: Any, number: Callable[[float], Any]) -> Any:
    """Return the error function of a float64 value.

    Args:
        op: has ONNX's elementwise operators as functions of values: ``Abs``, ``Add``, ``Div`` and so on.
        number: makes a value of a number.
    """
    size = op.Abs(x)
    square = op.Min(op.Mul(x, x), number(1.0))
    inner = op.Mul(x, _horner(_TAYLOR, square, op, number))
    capped = op.Max(op.Min(size, number(_LAST)), number(_FIRST))
    ratio = op.Div(op.Sub(capped, number(4.0)), op.Add(capped, number(4.0)))
    place = op.Add(op.Mul(ratio, number(2.5)), number(0.5))
    rest = op.Mul(op.Exp(op.Neg(op.Mul(capped, capped))), _horner(_TAIL, place, op, number))
    outer = op.Mul(op.Sign(x), op.Sub(number(1.0), rest))
    return op.Where(op.Less(size, number(_FIRST)), inner, outer)


def _horner(coefficients: Sequence[float], x: Any, op: Any, number: Callable[[float], Any]) -> Any:
    found: Any = number(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        found = op.Add(op.Mul(found, x), number(coefficient))
    return found


class NumpyOperations:
    """The operators that `erf_formula` takes, on arrays."""

    Abs, Add, Div, Exp, Less, Max, Min = np.abs, np.add, np.divide, np.exp, np.less, np.maximum, np.minimum
    Mul, Neg, Sign, Sub, Where = np.multiply, np.negative, np.sign, np.subtract, np.where


def erf(x: Array) -> Array:
    """Return the error function in float64, to a few units in the last place: scipy's where it is installed.

    >>> float(erf(np.array([0.5]))[0]) == math.erf(0.5)
    True
    """
    return _of_arrays("erf")(np.ascontiguousarray(x, np.float64))


def erfc(x: Array) -> Array:
    """Return 1 - erf(x) in float64, without the cancellation; scipy's where it is installed."""
    return _of_arrays("erfc")(np.ascontiguousarray(x, np.float64))


@cache
def _of_arrays(name: str) -> Callable[[Array], Array]:
    try:
        special = import_module("scipy.special")
    except ImportError:  # the base install has no scipy; math has the same, one number at a time
        one: Callable[[float], float] = getattr(math, name)
        return lambda x: np.fromiter(map(one, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)
    function: Callable[[Array], Array] = getattr(special, name)
    return function
