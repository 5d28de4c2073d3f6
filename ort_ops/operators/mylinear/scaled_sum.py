"""Sums of float64 products of which a partial sum, or the whole, may overflow float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.sums import largest_finite


def linear_scaled(x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None) -> tuple[NDArray[np.float64], int]:
    """Return ``y`` and a shift, so that ``y * 2^shift`` is ``x @ weight.T + bias`` and no sum overflows float64.

    All arrays are float64. The shift is 0 where no sum comes near the largest number. It loses less to underflow than
    2^-1000 of the largest term.
    """
    terms = x.shape[-1] + 1
    exponents = [int(np.frexp(largest_finite(a))[1]) for a in (x, weight)]
    with np.errstate(all="ignore"):
        if sum(exponents) + terms.bit_length() < 1000 and (bias is None or not (np.abs(bias) > 2.0**1000).any()):
            product: NDArray[np.float64] = np.matmul(x, weight.T)
            return (product if bias is None else product + bias), 0
        half = 512 + terms.bit_length()
        product = np.matmul(np.ldexp(x, -half), np.ldexp(weight, -half).T)
        return (product if bias is None else product + np.ldexp(bias, -2 * half)), 2 * half
