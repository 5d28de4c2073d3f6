"""How large the rounding errors of a result are, for the bound of a whole graph; see `ort_ops.numerics.sums`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.sums import FACTOR, sum_size
from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType
from ort_ops.operators.mylinear.version_2.activations import ACTIVATIONS

Array = NDArray[Any]


def activation_size(
    x: Array, weight: Array, bias: Array | None, activation: str, element_type: ElementType
) -> tuple[Array, Array]:
    """Return the exact result, and the size of its error.

    An error of the sum of `FACTOR` sizes passes through the activation; the evaluation and the last rounding add.

    Args:
        x: ``[..., in_features]``, weight: ``[out_features, in_features]``, bias: ``[out_features]`` or None; any dtype.
        activation: the attribute's value.
        element_type: of the result.
    """
    if activation == "none":
        return sum_size(x, weight.T, element_type, bias)
    accumulator, described = ELEMENT_TYPES[element_type.accumulator], ACTIVATIONS[activation]
    total, size = sum_size(x, weight.T, accumulator, bias)
    with np.errstate(all="ignore"):
        exact = described.exact(total)
        squares = np.square(described.spread(total, FACTOR * size) / FACTOR)
        squares = squares + np.square(described.evaluation_error(total, exact, accumulator))
        if element_type != accumulator:
            rounding = element_type.unit_roundoff * np.abs(exact) + np.where(exact == 0, 0.0, element_type.smallest)
            squares = squares + np.square(rounding)
        return exact, np.sqrt(squares)
