"""What the proof of a linear operator shares between its versions; X, W and B are the inputs of a call."""

from __future__ import annotations

from collections.abc import Callable

from ort_ops.numerics.bound import Array, Bound
from ort_ops.numerics.sums import by_columns, largest_finite
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ELEMENT_TYPES


def joined_bounds(call: Call, bound: Callable[[Array, Array, Array | None], Bound]) -> Bound:
    """Return the bound of a call, found for some features at a time, whose weights become float64.

    Args:
        bound: (x, weight and bias of some features) -> their bound, in arrays of its full shape.
    """
    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None

    def of_columns(columns: Array, bias: Array | None) -> tuple[Array, ...]:
        found = bound(x, columns.T, bias)
        return found.error, found.above, found.below

    return Bound(*by_columns(x, weight.T, bias, of_columns))


def may_overflow(call: Call) -> bool:
    """Return whether the largest numbers would let a partial sum overflow, if they came together."""
    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    largest = ELEMENT_TYPES[call.element_type.accumulator].largest
    bias_size = 0.0 if bias is None else largest_finite(bias)
    return bool((x.shape[-1] + 1) * 2 * largest_finite(x) * largest_finite(weight) + bias_size >= largest / 2)
