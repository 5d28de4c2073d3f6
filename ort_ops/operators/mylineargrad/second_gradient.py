"""The exact gradients of MYLINEARGRAD itself, for second derivatives, and how far a right backward may be from them.

With the upstream gradients A of GX, B of GW and c of GB: grad_G = A W^T + X B^T + c, grad_X = G B and grad_W = G^T A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.bound import Bound
from ort_ops.numerics.products import exact_product, product_bound
from ort_ops.opdef.call import Call
from ort_ops.operators.mylineargrad.reference import factors

Array = NDArray[Any]


class _Parts(NamedTuple):
    """The products that grad_G adds and its third term, and the one product of grad_X and of grad_W, if it has any."""

    of_grad: list[tuple[Array, Array]]
    of_bias: Array
    others: list[tuple[Array, Array] | None]


def _parts(call: Call, gradients: Sequence[Array | None]) -> _Parts:
    """Return what the gradients are made of; there may be None for an output that has none."""
    grad, weight, grad_rows, x_rows = factors(call)
    of_grad_x, of_grad_weight, of_grad_bias = gradients
    x = x_rows.reshape(*grad.shape[:-1], x_rows.shape[-1])
    of_grad = [] if of_grad_x is None else [(of_grad_x, weight.T)]
    of_grad += [] if of_grad_weight is None else [(x, of_grad_weight.T)]
    of_bias = np.zeros(()) if of_grad_bias is None else of_grad_bias.astype(np.float64)
    others = [
        None if of_grad_weight is None else (grad, of_grad_weight),
        None if of_grad_x is None else (grad_rows.T, of_grad_x.reshape(x_rows.shape)),
    ]
    return _Parts(of_grad, np.broadcast_to(of_bias, grad.shape), others)


def exact_gradients(call: Call, gradients: Sequence[Array | None]) -> list[Array | None]:
    """Return the exact gradients of G, X and W in float64; None for one that has none."""
    parts = _parts(call, gradients)
    total = parts.of_bias
    with np.errstate(all="ignore"):
        for a, b in parts.of_grad:
            total = total + exact_product(a, b)
    return [total, *(None if pair is None else exact_product(*pair) for pair in parts.others)]


def bounds(call: Call, gradients: Sequence[Array | None]) -> list[Bound | None]:
    """Bound each of `exact_gradients`.

    In grad_G, each product is rounded to the element type, and so is each of the two additions.
    """
    element_type, parts = call.element_type, _parts(call, gradients)
    size, error = np.abs(parts.of_bias), np.zeros(parts.of_bias.shape)
    with np.errstate(all="ignore"):
        for a, b in parts.of_grad:
            error = error + product_bound(a, b, None, element_type).error
            size = size + np.abs(exact_product(a, b))
        error = error + 3 * element_type.unit_roundoff * (size + error) + 2 * element_type.smallest
    others = [None if pair is None else product_bound(*pair, None, element_type) for pair in parts.others]
    return [Bound(error), *others]
