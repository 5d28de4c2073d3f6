"""Multiply constants by a factor, if no number is rounded. No torch."""

from __future__ import annotations

import math

import numpy as np

from ort_ops.rewrite.graph.constants import Array, Computed, Constant


def scales_exactly(constant: Constant | Computed, factor: float) -> bool:
    """Whether the constant's dtype has the factor times each number exactly; NaN and infinities count as exact.

    Decided by the exact product: by the remainder of the product of the mantissas in Dekker's splitting, and by its
    exponent.
    """
    if factor == 1.0:
        return True
    if isinstance(constant, Computed):
        return False
    array = constant.array()
    numbers = array.astype(np.float64).reshape(-1)
    numbers = numbers[np.isfinite(numbers) & (numbers != 0)]
    if not numbers.size:
        return True
    mantissas, exponents = np.frexp(numbers)
    mantissa, exponent = math.frexp(factor)
    products = mantissas * mantissa
    heads, head = np.round(mantissas * 2.0**26) * 2.0**-26, round(mantissa * 2.0**26) * 2.0**-26
    tails, tail = mantissas - heads, mantissa - head
    errors = ((heads * head - products) + heads * tail + tails * head) + tails * tail
    if errors.any():
        return False
    with np.errstate(all="ignore"):
        scaled = np.ldexp(products, exponents + exponent).astype(array.dtype).astype(np.float64)
    if not np.isfinite(scaled).all() or not scaled.all():
        return False
    got_mantissas, got_exponents = np.frexp(scaled)
    wanted_mantissas, more = np.frexp(products)
    return bool((got_mantissas == wanted_mantissas).all() and (got_exponents == exponents + exponent + more).all())


def scale(array: Array, factor: float) -> Array:
    """Return the factor times the array, in the array's dtype."""
    if factor == 1.0:
        return array
    with np.errstate(all="ignore"):
        return (array.astype(np.float64) * factor).astype(array.dtype)
