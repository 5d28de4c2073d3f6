"""Parts of the bounds on how far a right kernel may be from the exact result, shared by all operators.

Each operator derives its own bound from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Arithmetic:
    """How a kernel computes products and sums.

    Attributes:
        factor_roundoff: relative error of each factor when it is read.
        flushed: absolute error of each factor and each product, where tiny numbers may become 0.
        sum_scale: the relative error of one addition, in units of the accumulator's unit roundoff.
        rounds_between: whether what stands between two steps of an operator, as a sum before its activation, is rounded
            to the type of the result.
    """

    factor_roundoff: float = 0.0
    flushed: float = 0.0
    sum_scale: float = 1.0
    rounds_between: bool = False


ROUNDED = Arithmetic()
"""Every operation rounded to nearest, with or without fused multiply-add: CPUs, and CUDA cores."""
IN_STEPS = Arithmetic(rounds_between=True)
"""The same, one operation after the other: torch, whose float16 and bfloat16 results of each are rounded."""
TENSOR_CORES = Arithmetic(flushed=2.0**-126, sum_scale=4.0)
"""16-bit factors, exact products, float32 sums. An addend loses less than one unit in the last place (two unit
roundoffs) of the largest number in its block when it is aligned, and the block's sum as much again."""
TF32 = Arithmetic(factor_roundoff=2.0**-10, flushed=2.0**-126, sum_scale=4.0)
"""The same with float32 factors cut to 10 bits of mantissa; by truncation at worst, hence a whole unit."""


def gamma(n: int, unit_roundoff: float) -> float:
    """Return n u / (1 - n u), the relative error of n roundings; infinite where n u reaches 1."""
    product = n * unit_roundoff
    return product / (1 - product) if product < 1 else float("inf")


def _nowhere() -> NDArray[np.bool_]:
    return np.zeros((), np.bool_)


@dataclass(frozen=True)
class Bound:
    """What a right kernel may return for each element of a result.

    Every partial sum, in any order, lies between the sum of the negative terms and that of the positive ones.
    Where neither reaches the largest number of the accumulator, no partial sum overflows.

    Attributes:
        error: largest |y - exact| of a finite result; NaN where an input is not finite.
        above: where a partial sum may be +infinity; by default nowhere.
        below: where a partial sum may be -infinity; where both hold, also NaN. By default nowhere.
    """

    error: Float64Array
    above: NDArray[np.bool_] = field(default_factory=_nowhere)
    below: NDArray[np.bool_] = field(default_factory=_nowhere)
