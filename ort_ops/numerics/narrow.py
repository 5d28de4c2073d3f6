"""Round float32 numbers to the 16-bit types."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NARROW_TYPES = ("bfloat16", "float16")
_CHUNK = 2**20  # elements that are looked at together


def narrow(array: Array, dtype: str) -> Array:
    """Return float32 numbers, which any wider type may hold, in a 16-bit type: to nearest, ties to even.

    >>> narrow(np.array([1.00390625, 1.01171875]), "bfloat16").tolist()
    [1.0, 1.015625]
    """
    if dtype == "bfloat16":
        import ml_dtypes  # noqa: F401  # makes np.dtype know bfloat16
    with np.errstate(all="ignore"):
        return array.astype(np.float32, copy=False).astype(np.dtype(dtype))


def largest_change(array: Array, dtype: str) -> tuple[float, float]:
    """Return the largest change of a number by `narrow`, relative to the number, and the largest finite number.

    A number that becomes 0 changes by 1. Zeros, NaN and infinities stay as they are.
    """
    change = largest = 0.0
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float64)
        part = part[np.isfinite(part) & (part != 0)]
        if part.size:
            size = np.abs(part)
            change = max(change, float(np.max(np.abs(narrow(part, dtype).astype(np.float64) - part) / size)))
            largest = max(largest, float(np.max(size)))
    return change, largest
