"""Estimate the rounding errors of sums of products, for the bound of a whole graph.

`ort_ops.analysis.float64.local_error` says what the size of an error is: each rounding at its worst, added as squares.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType

Array = NDArray[Any]
FACTOR = 4.0
"""How many sizes an error may have; `ort_ops.analysis.float64_run` derives it."""
_CHECKPOINTS = 4
_EQUAL = 1e-6
"""Variance of terms that count as equal, relative to the square of their mean; covers what float32 loses of it."""


def largest_finite(values: NDArray[Any]) -> float:
    """Return the size of the largest finite number; 0 for none."""
    if not values.size:
        return 0.0
    largest = max(float(values.max()), -float(values.min()))  # no copy of a large array; NaN propagates
    if np.isfinite(largest):
        return largest
    return float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values)))


def sum_size(a: Array, b: Array, element_type: ElementType, bias: Array | None = None) -> tuple[Array, Array]:
    """Return ``a @ b + bias`` and the size of its error, in sums of the type's accumulator.

    A sum of n products s_1, s_2, ..., s_n makes an error of at most u |s_k| at each partial sum, and u |t| at each
    product t, and so the size is u sqrt(sum s_k^2 + sum t^2). The partial sums are taken as they lie at a few
    checkpoints; between two of them, over n / c terms, they differ from the earlier one by the root of the sum of the
    squares of the terms there (for terms in no order). The bias may come first, and then is part of every partial sum.

    Terms that are equal, to about a thousandth, are all rounded one way: the error is then up to u sum |s_k|, which is
    n u |s| / 2. `FACTOR` sizes allow that.

    Args:
        a: ``[..., n]``, b: ``[..., n, m]``, bias: to be added, or None; all float64.
        element_type: that holds the result.
    """
    num_terms = a.shape[-1]
    step = max(1, -(-num_terms // _CHECKPOINTS))
    accumulator = ELEMENT_TYPES[element_type.accumulator]
    with np.errstate(all="ignore"):
        total: Any = 0.0
        squares: Any = 0.0
        count = 0
        for start in range(0, num_terms, step):
            total = total + np.matmul(a[..., start : start + step], b[..., start : start + step, :])
            squares = squares + np.square(total)
            count += 1
        if not count:
            total = np.matmul(a, b)
        # float32 is enough for a size, and halves the time; numbers are scaled so that their squares fit into it.
        scale_a, scale_b = _scale(a), np.exp2(np.frexp(largest_finite(b))[1])
        terms = np.matmul(_small_squares(a, scale_a), _small_squares(b, scale_b)) * np.square(scale_a * scale_b)
        squares = num_terms * squares / max(1, count) + (step + 1) * terms
        are_equal = num_terms * terms <= (1 + _EQUAL + num_terms * 2.0**-24) * np.square(total)
        squares = np.maximum(squares, np.where(are_equal, np.square(num_terms * total / (2 * FACTOR)), 0.0))
        if bias is not None:
            total = total + bias
            squares = squares + (num_terms + 1) * np.square(bias) * (terms > 0)
        unit, rounding = accumulator.unit_roundoff, 0.0
        if element_type != accumulator:
            rounding = element_type.unit_roundoff
        # The sum with the bias is rounded, and once more to the element type.
        size = np.sqrt(unit**2 * (squares + np.square(total)) + rounding**2 * np.square(total))
        underflow = math.sqrt(num_terms) * accumulator.smallest + (element_type.smallest if rounding else 0.0)
        size = size + np.where(terms > 0, underflow, 0.0)
    return total, size


def _scale(values: Array) -> Array:
    """Return a power of 2 about the largest finite number of each row, whose axis stays."""
    largest = np.max(np.abs(values), axis=-1, keepdims=True, initial=0.0, where=np.isfinite(values))
    scale: Array = np.exp2(np.frexp(largest)[1])
    return scale


def _small_squares(values: Array, scale: Any) -> Array:
    """Return the squares of the scaled numbers, in float32."""
    small = np.empty_like(values, dtype=np.float32)
    np.divide(values, scale, out=small, dtype=np.float64, casting="same_kind")
    return np.square(small, out=small)
