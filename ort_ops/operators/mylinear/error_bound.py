"""How far a right kernel may be from the exact result, derived from K, the unit roundoff and the magnitudes.

A sum of n products in arithmetic of unit roundoff u, in whatever order and with or without fused multiply-add,
is off by at most gamma(n) * sum |x_i w_i| with gamma(n) = n u / (1 - n u) (N. Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1). Here n = K + 1, because the bias is one more term. To this come the rounding to the
element type and underflow.

This holds for arithmetic that rounds each operation to nearest. The matrix units of NVIDIA GPUs add several products at
once, cut off at the last place of the largest, and in TF32 round the factors first; `Arithmetic` has their constants.

Where a partial sum may overflow, the contract allows infinities and NaN beside the exact result; `Bound` says
where. `ort_ops.numerics.compare` compares results with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.bound import ROUNDED, Arithmetic, Bound, gamma
from ort_ops.opdef.element_types import ElementType
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.scaled_sum import linear_scaled

Array = NDArray[Any]
Float64Array = NDArray[np.float64]


def linear_bound(
    x: Array,
    weight: Array,
    bias: Array | None,
    element_type: ElementType,
    x_error: Array | None = None,
    arithmetic: Arithmetic = ROUNDED,
) -> Bound:
    """Bound every element of MYLINEAR's result.

    Args:
        x: ``[..., in_features]``, weight: ``[out_features, in_features]``, bias: ``[out_features]`` or None; any dtype.
        element_type: the one that the kernel computes in.
        x_error: how far ``x`` itself may be off, shape of ``x``; None for not at all.
        arithmetic: of the kernel.
    """
    accumulator = MYLINEAR.element_type(element_type.accumulator)
    terms = x.shape[-1] + 1
    with np.errstate(all="ignore"):
        x, weight = x.astype(np.float64, copy=False), weight.astype(np.float64, copy=False)
        bias = None if bias is None else bias.astype(np.float64, copy=False)
        absolute_x, absolute_weight = np.abs(x), np.abs(weight)
        inherited: Any = 0.0
        if x_error is not None:
            inherited = np.matmul(x_error, absolute_weight.T)
            absolute_x = absolute_x + x_error
        magnitude = np.matmul(absolute_x, absolute_weight.T)
        if bias is not None:
            magnitude = magnitude + np.abs(bias)
        # The float64 reference makes the same kind of error, which matters for float64 kernels.
        summing = gamma(terms, arithmetic.sum_scale * accumulator.unit_roundoff) + gamma(terms, 2.0**-53)
        summed = summing * magnitude
        if accumulator.name == "float64" and np.isinf(summed).any():  # sums of float64 numbers that exceed float64
            scaled, shift = linear_scaled(absolute_x, absolute_weight, None if bias is None else np.abs(bias))
            summed = np.where(np.isinf(summed), np.ldexp(summing * scaled, shift), summed)
        bound = inherited + summed + terms * accumulator.smallest
        if arithmetic is not ROUNDED:
            relative, flushed = arithmetic.factor_roundoff, arithmetic.flushed
            factors = absolute_x.sum(axis=-1, keepdims=True) + absolute_weight.sum(axis=1)
            bound = bound + (2 * relative + relative**2) * (1 + summing) * magnitude
            bound = bound + flushed * (terms + (factors if relative else 0.0))
        if element_type != accumulator:
            product = np.matmul(x, weight.T)
            result = np.abs(product if bias is None else product + bias)
            bound = bound + element_type.unit_roundoff * (result + bound) + element_type.smallest
        reaches = magnitude * (1 + summing) >= accumulator.largest
        above = below = np.zeros(bound.shape, bool)
        if reaches.any() or not np.isfinite(magnitude).all():
            above, below = _overflowing(x, weight, bias, accumulator.largest / (1 + summing))
    return Bound(bound, above, below)


def _overflowing(
    x: Array, weight: Array, bias: Array | None, largest: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where the positive terms reach ``largest`` or +infinity, and where the negative ones reach the opposite.

    A term with an infinity or NaN does not count: it decides the result by itself, and the exact result shows it.
    """
    (x_plus, x_minus), (weight_plus, weight_minus) = _halves(x), _halves(weight)
    found = []
    for positive, negative, sign in ((weight_plus, weight_minus, 1.0), (weight_minus, weight_plus, -1.0)):
        part = None if bias is None else _halves(sign * bias)[0]
        terms = np.matmul(x_plus, positive.T) + np.matmul(x_minus, negative.T)
        found.append((terms if part is None else terms + part) >= largest)
    return found[0], found[1]


def _halves(values: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the positive part, and the negative part as positive numbers; 0 for values that are not finite."""
    is_finite = np.isfinite(values)
    finite = values if is_finite.all() else np.where(is_finite, values, 0.0)
    positive = np.maximum(finite, 0.0)
    return positive, positive - finite
