"""Estimate the rounding errors of sums of products, for the bound of a whole graph.

`ort_ops.analysis.float64.local_error` says what the size of an error is: each rounding at its worst, added as squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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


FEW_ROWS = 4
"""As many rows are multiplied with a matrix one by one: BLAS packs all of it first for a product of matrices."""
_PART_SIZES = (2**17, 2**22)
"""Numbers in a part of a matrix for few rows, which a cache should hold in float64, and for more."""
_MIN_COLUMNS = 256  # of a part of a matrix that lies row by row


def matmul(a: Array, b: Array) -> Array:
    """Return ``a @ b`` as `numpy.matmul` does, and faster for few rows."""
    if b.ndim != 2 or a.ndim < 2:
        product: Array = np.matmul(a, b)
        return product
    rows = a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
    few = 1 < len(rows) <= FEW_ROWS
    product = np.stack([np.matmul(row, b) for row in rows]) if few else np.matmul(rows, b)
    return product.reshape(*a.shape[:-1], b.shape[-1])


def by_columns(
    a: Array, b: Array, bias: Array | None, compute: Callable[[Array, Array | None], Sequence[Array]]
) -> list[Array]:
    """Compute what each column of ``b`` determines by itself, for some columns at a time, which become float64.

    So a large matrix in a narrower type is never in memory in float64 as a whole.

    Args:
        a: ``[..., n]``, b: ``[..., n, m]``, of any floating-point dtype; bias: of any shape that fits, or None.
        compute: (columns of b, and of the bias) -> arrays with these columns.
    """
    columns = b.shape[-1]
    step = max(1, columns)
    if b.ndim == 2:
        step = max(1, _PART_SIZES[math.prod(a.shape[:-1]) > FEW_ROWS] // max(1, len(b)))
        step = max(step, _MIN_COLUMNS if b.flags.c_contiguous else 1)
    found = []
    for start in range(0, max(1, columns), step):
        part = slice(start, start + step)
        is_cut = bias is not None and bias.ndim > 0 and bias.shape[-1] == columns
        found.append(compute(_wide(b[..., part]), _wide(bias[..., part] if bias is not None and is_cut else bias)))
    return [arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1) for arrays in zip(*found, strict=True)]


def _wide(values: Any) -> Any:
    return None if values is None else values.astype(np.float64, copy=False)


def wide_product(a: Array, b: Array, bias: Array | None) -> Array:
    """Return ``a @ b + bias`` in float64, with ``b`` widened in parts."""

    def compute(b: Array, bias: Array | None) -> list[Array]:
        total = matmul(a, b)
        return [total if bias is None else total + bias]

    with np.errstate(all="ignore"):
        a = _wide(a)
        return by_columns(a, b, bias, compute)[0]


def sum_size(a: Array, b: Array, element_type: ElementType, bias: Array | None = None) -> tuple[Array, Array]:
    """Return ``a @ b + bias`` and the size of its error, in sums of the type's accumulator.

    A sum of n products s_1, s_2, ..., s_n makes an error of at most u |s_k| at each partial sum, and u |t| at each
    product t, and so the size is u sqrt(sum s_k^2 + sum t^2). The partial sums are taken as they lie at a few
    checkpoints; between two of them, over n / c terms, they differ from the earlier one by the root of the sum of the
    squares of the terms there (for terms in no order). The bias may come first, and then is part of every partial sum.

    Terms that are equal, to about a thousandth, are all rounded one way: the error is then up to u sum |s_k|, which is
    n u |s| / 2. `FACTOR` sizes allow that.

    Args:
        a: ``[..., n]``, b: ``[..., n, m]``, bias: to be added, or None; of any floating-point dtype.
        element_type: that holds the result.
    """
    with np.errstate(all="ignore"):
        a = _wide(a)
        total, size = by_columns(a, b, bias, lambda b, bias: _sum_size(a, b, element_type, bias))
    return total, size


def _sum_size(a: Array, b: Array, element_type: ElementType, bias: Array | None) -> tuple[Array, Array]:
    num_terms = a.shape[-1]
    step = max(1, -(-num_terms // _CHECKPOINTS))
    accumulator = ELEMENT_TYPES[element_type.accumulator]
    total: Any = 0.0
    squares: Any = 0.0
    count = 0
    for start in range(0, num_terms, step):
        total = total + matmul(a[..., start : start + step], b[..., start : start + step, :])
        squares = squares + np.square(total)
        count += 1
    if not count:
        total = matmul(a, b)
    # float32 is enough for a size, and halves the time; numbers are scaled so that their squares fit into it.
    scale_a, scale_b = _scale(a), np.exp2(np.frexp(largest_finite(b))[1])
    terms = matmul(_small_squares(a, scale_a), _small_squares(b, scale_b)) * np.square(scale_a * scale_b)
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
