"""Calls of a linear operator, some features at a time, for what is proved in float64; X, W and B are the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ort_ops.numerics.bound import Array, Bound
from ort_ops.numerics.sums import largest_finite
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ELEMENT_TYPES

_WEIGHTS = 2**22  # of a part
Part = tuple[Array, Array, Array | None]


def parts(call: Call) -> Iterator[Part]:
    """Yield x with the weight and bias of some features at a time: each part becomes float64, and one is enough."""
    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    step = max(1, _WEIGHTS // max(1, weight.shape[-1]))
    for start in range(0, max(1, len(weight)), step):
        part = slice(start, start + step)
        yield x, weight[part], None if bias is None else bias[part]


def joined_bounds(call: Call, bound: Callable[[Part], Bound]) -> Bound:
    """Return the bounds of all parts as one."""
    found = [bound(part) for part in parts(call)]
    if len(found) == 1:
        return found[0]
    names = ("error", "above", "below")
    return Bound(*(np.concatenate([getattr(part, name) for part in found], axis=-1) for name in names))


def may_overflow(call: Call) -> bool:
    """Return whether the largest numbers would let a partial sum overflow, if they came together."""
    x, weight, bias = call.arrays
    assert x is not None
    assert weight is not None
    largest = ELEMENT_TYPES[call.element_type.accumulator].largest
    bias_size = 0.0 if bias is None else largest_finite(bias)
    return bool((x.shape[-1] + 1) * 2 * largest_finite(x) * largest_finite(weight) + bias_size >= largest / 2)
