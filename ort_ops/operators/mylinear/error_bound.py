"""How far a right kernel may be from the exact result: `ort_ops.numerics.products` derives it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ort_ops.numerics.bound import ROUNDED, Arithmetic, Bound
from ort_ops.numerics.products import product_bound
from ort_ops.opdef.element_types import ElementType

Array = NDArray[Any]


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
    return product_bound(x, weight.T, bias, element_type, x_error, arithmetic)
