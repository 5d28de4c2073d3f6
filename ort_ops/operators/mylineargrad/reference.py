"""The operator's exact results in float64, how far a right kernel may be from them, and what their errors are like.

Each output is a sum of products that `ort_ops.numerics.products` bounds: GX of out_features terms, GW of as many as G
has rows. GB adds the rows of G, and is exact where there is one row only.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.bound import Arithmetic, Bound
from ort_ops.numerics.products import exact_product, exact_row_sum, product_bound, row_sum_bound
from ort_ops.numerics.sums import largest_finite, sum_size
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ELEMENT_TYPES

Array = NDArray[Any]


class Factors(NamedTuple):
    """What the three sums are made of: G, W, and G and X as matrices with a row for each index of the leading ones."""

    grad: Array
    weight: Array
    grad_rows: Array
    x_rows: Array


def factors(call: Call) -> Factors:
    """Return the arrays of a call as its sums take them. Raises: ContractError if a shape breaks the contract."""
    grad, x, weight = call.arrays
    assert grad is not None
    assert x is not None
    assert weight is not None
    call.operator.infer_shape([grad.shape, x.shape, weight.shape], {})
    rows = math.prod(grad.shape[:-1])
    return Factors(grad, weight, grad.reshape(rows, grad.shape[-1]), x.reshape(rows, x.shape[-1]))


def gradients_float64(call: Call) -> list[Array]:
    """Return GX, GW and GB, summed in float64 and not rounded."""
    grad, weight, grad_rows, x_rows = factors(call)
    return [exact_product(grad, weight), exact_product(grad_rows.T, x_rows), exact_row_sum(grad_rows)]


def gradient_bounds(call: Call, arithmetic: Arithmetic) -> list[Bound]:
    """Bound every element of GX, GW and GB."""
    grad, weight, grad_rows, x_rows = factors(call)
    element_type = call.element_type
    return [
        product_bound(grad, weight, None, element_type, arithmetic=arithmetic),
        product_bound(grad_rows.T, x_rows, None, element_type, arithmetic=arithmetic),
        row_sum_bound(grad_rows, element_type, arithmetic),
    ]


def error_sizes(call: Call) -> list[tuple[Array, Array]]:
    """Return GX, GW and GB with the sizes of their errors; see `OperatorKit.error_sizes`."""
    wide = Factors(*(array.astype(np.float64, copy=False) for array in factors(call)))
    ones = np.ones((1, len(wide.grad_rows)))
    pairs = [(wide.grad, wide.weight), (wide.grad_rows.T, wide.x_rows), (ones, wide.grad_rows)]
    found = [sum_size(a, b, call.element_type) for a, b in pairs]
    total, size = found[2]
    return [*found[:2], (total[0], size[0])]


def may_overflow(call: Call) -> bool:
    """Return whether the largest numbers would let a partial sum overflow, if they came together."""
    grad, weight, grad_rows, x_rows = factors(call)
    largest = ELEMENT_TYPES[call.element_type.accumulator].largest
    of_grad, of_x, of_weight = (largest_finite(array) for array in (grad, x_rows, weight))
    sums = (grad.shape[-1] * of_grad * of_weight, len(grad_rows) * of_grad * of_x, len(grad_rows) * of_grad)
    return any(2 * total >= largest / 2 for total in sums)
