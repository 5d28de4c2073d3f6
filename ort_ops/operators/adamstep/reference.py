"""The operator's exact results in float64, and how far a right kernel may be from them.

Both follow the operations of the contract one by one: `Rounding` carries the error of each to the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.bound import Bound
from ort_ops.opdef.call import Call
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.operators.adamstep.rounding import Number, Rounding

Array = NDArray[Any]


def _next(call: Call) -> list[Number]:
    """Return PN, MN and VN. Raises: ContractError if a shape breaks the contract."""
    arrays = [np.asarray(array) for array in call.arrays]
    call.operator.infer_shape([array.shape for array in arrays], {})
    p, g, m, v, step, lr, beta1, beta2, eps, decay = map(Number.given, arrays)
    one = Number.given(np.ones(()))
    wide, own = Rounding(ELEMENT_TYPES["float64"]), Rounding(call.element_type)
    with np.errstate(all="ignore"):
        root = wide.sqrt(wide.sub(one, wide.pow(beta2, step)))
        size = wide.div(lr, wide.sub(one, wide.pow(beta1, step)))
        kept = wide.sub(one, wide.mul(lr, decay))
        weight1, weight2 = wide.sub(one, beta1), wide.sub(one, beta2)
        next_m = own.add(m, own.mul(own.cast(weight1), own.sub(g, m)))
        squares = own.mul(own.mul(own.cast(weight2), g), g)
        next_v = own.add(own.mul(v, own.cast(beta2)), squares)
        denominator = own.add(own.div(own.sqrt(next_v), own.cast(root)), own.cast(eps))
        move = own.div(own.mul(own.cast(size), next_m), denominator)
        next_p = own.sub(own.mul(p, own.cast(kept)), move)
    return [next_p, next_m, next_v]


def next_float64(call: Call) -> list[Array]:
    """Return PN, MN and VN, computed in float64 and not rounded."""
    return [number.exact for number in _next(call)]


def next_bounds(call: Call) -> list[Bound]:
    """Bound every element of PN, MN and VN."""
    given = [np.asarray(array, np.float64) for array in call.arrays]
    is_finite = np.ones((), np.bool_)
    for array in given:
        is_finite = is_finite & np.isfinite(array)
    bounds = []
    for number in _next(call):
        is_unsure = number.is_unsure & is_finite
        bounds.append(Bound(np.where(is_unsure, np.inf, number.error), is_unsure, is_unsure))
    return bounds
