"""How far a right kernel may be from the exact result, derived from K, the unit roundoff and the magnitudes.

A sum of n products in arithmetic of unit roundoff u, in whatever order and with or without fused multiply-add,
is off by at most gamma(n) * sum |x_i w_i| with gamma(n) = n u / (1 - n u) (N. Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1). Here n = K + 1, for the bias is one more term. Then come the rounding to the
element type, and underflow.

That is arithmetic that rounds each operation to nearest. The matrix units of NVIDIA GPUs add several products at once,
cut off at the last place of the largest, and in TF32 first round the factors; `Arithmetic` has their constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.contract import MYLINEAR
from ort_ops.operator import ElementType

Array = NDArray[Any]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Arithmetic:
    """How a kernel computes products and sums.

    Attributes:
        factor_roundoff: relative error of each factor when it is taken in.
        flushed: absolute error of each factor and each product, where tiny numbers may be taken for 0.
        sum_scale: the relative error of one addition, in units of the accumulator's unit roundoff.
    """

    factor_roundoff: float = 0.0
    flushed: float = 0.0
    sum_scale: float = 1.0


ROUNDED = Arithmetic()
"""Every operation rounded to nearest, with or without fused multiply-add: CPUs, and CUDA cores."""
TENSOR_CORES = Arithmetic(flushed=2.0**-126, sum_scale=4.0)
"""16-bit factors, exact products, float32 sums. An addend loses less than one unit in the last place (two unit
roundoffs) of the largest number in its block when it is aligned, and the block's sum as much again."""
TF32 = Arithmetic(factor_roundoff=2.0**-10, flushed=2.0**-126, sum_scale=4.0)
"""The same with float32 factors cut to 10 bits of mantissa; by truncation at worst, hence a whole unit."""


def gamma(n: int, unit_roundoff: float) -> float:
    """Return n u / (1 - n u), the relative error of n roundings; infinite where n u reaches 1."""
    product = n * unit_roundoff
    return product / (1 - product) if product < 1 else float("inf")


def linear_error_bound(
    x: Array,
    weight: Array,
    bias: Array | None,
    element_type: ElementType,
    x_error: Array | None = None,
    arithmetic: Arithmetic = ROUNDED,
) -> Float64Array:
    """Bound |y - exact| for every element of MYLINEAR's result.

    Args:
        x: ``[..., in_features]``, weight: ``[out_features, in_features]``, bias: ``[out_features]`` or None; any dtype.
        element_type: the one that the kernel computes in.
        x_error: how far ``x`` itself may be off, shape of ``x``; None for not at all.
        arithmetic: of the kernel.

    Returns: ``[..., out_features]``; infinite where the accumulator may overflow, NaN where x or weight is not finite.
    """
    accumulator = MYLINEAR.element_type(element_type.accumulator)
    absolute_weight = np.abs(weight.astype(np.float64)).T
    absolute_x = np.abs(x.astype(np.float64))
    terms = x.shape[-1] + 1
    with np.errstate(all="ignore"):
        inherited = 0.0
        if x_error is not None:
            inherited = np.matmul(x_error, absolute_weight)
            absolute_x = absolute_x + x_error
        magnitude = np.matmul(absolute_x, absolute_weight)
        if bias is not None:
            magnitude = magnitude + np.abs(bias.astype(np.float64))
        # The float64 reference makes the same kind of error, which matters for float64 kernels.
        summing = gamma(terms, arithmetic.sum_scale * accumulator.unit_roundoff) + gamma(terms, 2.0**-53)
        bound = inherited + summing * magnitude + terms * accumulator.smallest
        if arithmetic is not ROUNDED:
            relative, flushed = arithmetic.factor_roundoff, arithmetic.flushed
            factors = absolute_x.sum(axis=-1, keepdims=True) + absolute_weight.sum(axis=0)
            bound = bound + (2 * relative + relative**2) * (1 + summing) * magnitude
            bound = bound + flushed * (terms + (factors if relative else 0.0))
        if element_type != accumulator:
            product = np.matmul(x.astype(np.float64), weight.astype(np.float64).T)
            result = np.abs(product if bias is None else product + bias.astype(np.float64))
            bound = bound + element_type.unit_roundoff * (result + bound) + element_type.smallest
        overflows = magnitude >= accumulator.largest
    return np.where(overflows, np.inf, bound)


@dataclass(frozen=True)
class Comparison:
    """One result beside the reference.

    Attributes:
        max_error: largest absolute error where both are finite; 0 for no elements.
        max_in_bounds: largest error in units of its bound; at most 1 for a right kernel. Infinite where NaN or
            infinity stand in the wrong place.
        complaint: what is wrong and where; None if nothing is.
    """

    max_error: float
    max_in_bounds: float
    complaint: str | None

    @property
    def is_within_bound(self) -> bool:
        return self.complaint is None


def compare(actual: Array, expected: Array, bound: Array, element_type: ElementType) -> Comparison:
    """Compare a kernel's result with the reference: NaN and infinities first, then finite values.

    Args:
        actual: the result, in any dtype.
        expected: the reference, float64, shape of ``actual``; not rounded to the element type.
        bound: largest allowed |actual - expected|, shape of ``actual``.
        element_type: of ``actual``; decides where a finite reference may become infinite.
    """
    if actual.shape != expected.shape:
        shapes = f"the shape is {list(actual.shape)} instead of {list(expected.shape)}"
        return Comparison(float("inf"), float("inf"), shapes)
    got = actual.astype(np.float64)
    with np.errstate(all="ignore"):
        # Rounding to nearest makes infinity of what is half a unit in the last place beyond the largest number.
        may_overflow = np.abs(expected) + bound >= element_type.largest * (1 + element_type.unit_roundoff / 2)
        is_unbounded = np.isinf(bound) & np.isfinite(expected)
        is_same = (np.isnan(got) & np.isnan(expected)) | (got == expected) | is_unbounded
        is_same |= may_overflow & np.isinf(got) & (np.signbit(got) == np.signbit(expected))
        error = np.where(is_same, 0.0, np.abs(got - expected))
        finite = np.isfinite(got) & np.isfinite(expected)
        in_bounds = np.where(is_same, 0.0, np.where(finite, error / bound, np.inf))
        in_bounds = np.where(np.isnan(in_bounds), np.inf, in_bounds)
        is_wrong = ~(is_same | (finite & (error <= bound)))
        max_error = float(np.max(np.abs(got - expected), initial=0.0, where=finite & ~is_unbounded))
    complaint = None
    if is_wrong.any():
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(is_wrong)), is_wrong.shape))
        complaint = (
            f"{int(is_wrong.sum())} of {is_wrong.size} values are off, the first at {list(index)}: "
            f"got {got[index]:.9g} instead of {expected[index]:.9g}, allowed error {bound[index]:.3g}"
        )
    return Comparison(max_error, float(np.max(in_bounds, initial=0.0)), complaint)
