"""Products of matrices in float64, and how far a right kernel may be from them; shared by the operators that sum.

A sum of n products in arithmetic of unit roundoff u, in whatever order and with or without fused multiply-add,
is off by at most gamma(n) * sum |a_i b_i| with gamma(n) = n u / (1 - n u) (N. Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1). To this come the rounding to the element type and underflow.

This holds for arithmetic that rounds each operation to nearest. The matrix units of NVIDIA GPUs add several products at
once, cut off at the last place of the largest, and in TF32 round the factors first; `Arithmetic` has their constants.

Where a partial sum may overflow, infinities and NaN are right beside the exact result; `Bound` says where.
`ort_ops.numerics.compare` compares results with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.bound import ROUNDED, Arithmetic, Bound, gamma
from ort_ops.numerics.sums import by_columns, largest_finite, matmul
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType

Array = NDArray[Any]
Float64Array = NDArray[np.float64]


def exact_product(a: Array, b: Array, bias: Array | None = None) -> Float64Array:
    """Return ``a @ b + bias``, summed in float64 and not rounded to the type of ``a``.

    A sum of float64 numbers that overflows only in part is added anew, scaled.

    Args:
        a: ``[..., n]``, b: ``[n, m]``, bias: ``[m]`` or None; of any floating-point dtype.
    """

    def compute(b64: Array, bias64: Array | None) -> list[Array]:
        product = matmul(a64, b64)
        result = product if bias64 is None else product + bias64
        if a.itemsize == 8 and not np.isfinite(result).all():
            # A partial sum may have overflowed where the exact sum does not.
            result = np.where(np.isfinite(result), result, np.ldexp(*scaled_product(a64, b64, bias64)))
        return [result]

    with np.errstate(all="ignore"):  # NaN and infinities are results here, not mistakes
        a64 = a.astype(np.float64, copy=False)
        return by_columns(a64, b, bias, compute)[0]


def scaled_product(a: Array, b: Array, bias: Array | None) -> tuple[Float64Array, int]:
    """Return ``y`` and a shift, so that ``y * 2^shift`` is ``a @ b + bias`` and no sum overflows float64.

    All arrays are float64. The shift is 0 where no sum comes near the largest number. It loses less to underflow than
    2^-1000 of the largest term.
    """
    terms = a.shape[-1] + 1
    exponents = [int(np.frexp(largest_finite(factor))[1]) for factor in (a, b)]
    with np.errstate(all="ignore"):
        if sum(exponents) + terms.bit_length() < 1000 and (bias is None or not (np.abs(bias) > 2.0**1000).any()):
            product: Float64Array = np.matmul(a, b)
            return (product if bias is None else product + bias), 0
        half = 512 + terms.bit_length()
        product = np.matmul(np.ldexp(a, -half), np.ldexp(b, -half))
        return (product if bias is None else product + np.ldexp(bias, -2 * half)), 2 * half


def product_bound(
    a: Array,
    b: Array,
    bias: Array | None,
    element_type: ElementType,
    a_error: Array | None = None,
    arithmetic: Arithmetic = ROUNDED,
) -> Bound:
    """Bound every element of ``a @ b + bias``. The number of terms is n + 1, because the bias is one more.

    Args:
        a: ``[..., n]``, b: ``[n, m]``, bias: ``[m]`` or None; any dtype.
        element_type: the one that the kernel computes in.
        a_error: how far ``a`` itself may be off, shape of ``a``; None for not at all.
        arithmetic: of the kernel.
    """
    accumulator = ELEMENT_TYPES[element_type.accumulator]
    terms = a.shape[-1] + 1
    with np.errstate(all="ignore"):
        a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
        bias = None if bias is None else bias.astype(np.float64, copy=False)
        absolute_a, absolute_b = np.abs(a), np.abs(b)
        inherited: Any = 0.0
        if a_error is not None:
            inherited = np.matmul(a_error, absolute_b)
            absolute_a = absolute_a + a_error
        magnitude = np.matmul(absolute_a, absolute_b)
        if bias is not None:
            magnitude = magnitude + np.abs(bias)
        # The float64 reference makes the same kind of error, which matters for float64 kernels.
        summing = gamma(terms, arithmetic.sum_scale * accumulator.unit_roundoff) + gamma(terms, 2.0**-53)
        summed = summing * magnitude
        if accumulator.name == "float64" and np.isinf(summed).any():  # sums of float64 numbers that exceed float64
            scaled, shift = scaled_product(absolute_a, absolute_b, None if bias is None else np.abs(bias))
            summed = np.where(np.isinf(summed), np.ldexp(summing * scaled, shift), summed)
        bound = inherited + summed + terms * accumulator.smallest
        if arithmetic.factor_roundoff or arithmetic.flushed:
            relative, flushed = arithmetic.factor_roundoff, arithmetic.flushed
            factors = absolute_a.sum(axis=-1, keepdims=True) + absolute_b.sum(axis=0)
            bound = bound + (2 * relative + relative**2) * (1 + summing) * magnitude
            bound = bound + flushed * (terms + (factors if relative else 0.0))
        if element_type != accumulator:
            product = np.matmul(a, b)
            result = np.abs(product if bias is None else product + bias)
            bound = bound + element_type.unit_roundoff * (result + bound) + element_type.smallest
        reaches = magnitude * (1 + summing) >= accumulator.largest
        above = below = np.zeros(bound.shape, bool)
        if reaches.any() or not np.isfinite(magnitude).all():
            above, below = _overflowing(a, b, bias, accumulator.largest / (1 + summing))
    return Bound(bound, above, below)


def exact_row_sum(rows: Array) -> Float64Array:
    """Return the sum of the rows of ``[n, m]`` in float64, as `exact_product` adds; 0 for no rows."""
    ones = np.ones((1, len(rows)), rows.dtype)
    total: Float64Array = exact_product(ones, rows)[0]
    return total


def row_sum_bound(rows: Array, element_type: ElementType, arithmetic: Arithmetic = ROUNDED) -> Bound:
    """Bound the sum of the rows of ``[n, m]``, which may be computed as a product with ones.

    n numbers take n - 1 additions, none of which underflows, and the products with 1 are exact. So one row must stay as
    it is, unless the arithmetic rounds factors or flushes tiny numbers to 0.
    """
    accumulator = ELEMENT_TYPES[element_type.accumulator]
    count = len(rows)
    with np.errstate(all="ignore"):
        rows = rows.astype(np.float64, copy=False)
        absolute = np.abs(rows)
        additions = max(0, count - 1)
        summing = gamma(additions, arithmetic.sum_scale * accumulator.unit_roundoff) + gamma(additions, 2.0**-53)
        magnitude = absolute.sum(axis=0)
        bound = summing * magnitude
        if accumulator.name == "float64" and np.isinf(bound).any():
            scaled, shift = scaled_product(np.ones((1, count)), absolute, None)
            bound = np.where(np.isinf(bound), np.ldexp(summing * scaled[0], shift), bound)
        if arithmetic.factor_roundoff or arithmetic.flushed:
            relative = arithmetic.factor_roundoff
            bound = bound + relative * (1 + summing) * magnitude + arithmetic.flushed * 2 * count
        if element_type != accumulator and count > 1:
            bound = bound + element_type.unit_roundoff * (np.abs(rows.sum(axis=0)) + bound) + element_type.smallest
        largest = accumulator.largest / (1 + summing)
        positive, negative = _halves(rows)
        above, below = positive.sum(axis=0) >= largest, negative.sum(axis=0) >= largest
        if count <= 1:
            above = below = np.zeros(bound.shape, bool)
    return Bound(bound, above, below)


def _overflowing(a: Array, b: Array, bias: Array | None, largest: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where the positive terms reach ``largest`` or +infinity, and where the negative ones reach the opposite.

    A term with an infinity or NaN does not count: it decides the result by itself, and the exact result shows it.
    """
    (a_plus, a_minus), (b_plus, b_minus) = _halves(a), _halves(b)
    found = []
    for positive, negative, sign in ((b_plus, b_minus, 1.0), (b_minus, b_plus, -1.0)):
        part = None if bias is None else _halves(sign * bias)[0]
        terms = np.matmul(a_plus, positive) + np.matmul(a_minus, negative)
        found.append((terms if part is None else terms + part) >= largest)
    return found[0], found[1]


def _halves(values: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the positive part, and the negative part as positive numbers; 0 for values that are not finite."""
    is_finite = np.isfinite(values)
    finite = values if is_finite.all() else np.where(is_finite, values, 0.0)
    positive = np.maximum(finite, 0.0)
    return positive, positive - finite
