"""How far a right kernel of version 2 may be from the exact result: the bound of the sum, through the activation.

Let s be the exact sum and e the bound of its error, as in version 1 (`ort_ops.numerics.products`). A kernel evaluates
the activation f at some number within e of s, with the error d of an evaluation
(`ort_ops.operators.mylinear.version_2.activations`), and rounds once, with the unit roundoff u of the element type:

    |y - f(s)| <= E + u (|f(s)| + E) + smallest,   E = spread of f within e of s, at most (Lipschitz constant) e,   + d

Where a partial sum may overflow, f of that infinity is right too, and of both, f of NaN.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.bound import ROUNDED, Arithmetic, Bound
from ort_ops.numerics.products import exact_product, product_bound
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType
from ort_ops.operators.mylinear.version_2.activations import ACTIVATIONS, Activation

Array = NDArray[Any]


def activation_bound(
    x: Array,
    weight: Array,
    bias: Array | None,
    activation: str,
    element_type: ElementType,
    arithmetic: Arithmetic = ROUNDED,
) -> Bound:
    """Bound every element of the result.

    Args:
        x: ``[..., in_features]``, weight: ``[out_features, in_features]``, bias: ``[out_features]`` or None; any dtype.
        activation: the attribute's value.
        element_type: of the result.
        arithmetic: of the kernel.
    """
    if activation == "none":
        return product_bound(x, weight.T, bias, element_type, arithmetic=arithmetic)
    held = element_type if arithmetic.rounds_between else ELEMENT_TYPES[element_type.accumulator]
    total = exact_product(x, weight.T, bias)
    bound = product_bound(x, weight.T, bias, held, arithmetic=arithmetic)
    if held.largest < ELEMENT_TYPES[held.accumulator].largest:  # then the sum itself may be rounded to an infinity
        above, below = (sign * total + bound.error >= held.largest for sign in (1, -1))
        bound = replace(bound, above=bound.above | above, below=bound.below | below)
    return through_activation(ACTIVATIONS[activation], total, bound, element_type)


def through_activation(activation: Activation, total: Array, bound: Bound, element_type: ElementType) -> Bound:
    """Return the bound of the rounded activation of a sum.

    Args:
        total: the exact sum, float64.
        bound: of the sum in the accumulator of ``element_type``.
        element_type: of the result.
    """
    accumulator = ELEMENT_TYPES[element_type.accumulator]
    with np.errstate(all="ignore"):
        off = np.where(np.isinf(total), 0.0, bound.error)
        exact = activation.exact(total)
        error = activation.spread(total, off)
        error = error + activation.evaluation_error(total - off, np.abs(exact) + error, accumulator)
        if element_type != accumulator:
            error = error + element_type.unit_roundoff * (np.abs(exact) + error) + element_type.smallest
        is_free = bound.above | bound.below
        above, below = bound.above | (total == np.inf), bound.below | (total == -np.inf)
        low, high = activation.ends
        # An infinity of a partial sum is in the sum too; both make NaN, and so may an infinity in the activation.
        is_nan = is_free & ((above & below) | (below if np.isnan(low) else False))
        for where, end in ((bound.above, high), (bound.below, low)):
            if np.isfinite(end):
                error = np.where(where, np.fmax(error, np.abs(end - exact)), error)
        is_infinite = bound.above if np.isposinf(high) else np.zeros_like(is_free)
        if activation.doubles:
            is_infinite = is_infinite | (total + off >= accumulator.largest / 2)
            is_nan = is_nan | bound.above | (total + off >= accumulator.largest)
    return Bound(error, is_infinite | is_nan, is_nan)
