"""Measure the errors of a result in units of the last place, and their distribution in units of the bound."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.opdef.element_types import ElementType

Array = NDArray[Any]
EDGES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Bin edges of the histogram, in units of the bound; the first bin includes 0, the last has violations."""


def max_ulp(actual: Array, expected: Array, element_type: ElementType) -> float:
    """Return the largest error in units of the last place of the expected number, over finite numbers.

    Where terms cancel this is large for right kernels too: the bound knows of cancellation, the unit does not.
    """
    if actual.shape != expected.shape:
        return float("inf")
    got = actual.astype(np.float64)
    with np.errstate(all="ignore"):
        exponent = np.floor(np.log2(np.maximum(np.abs(expected), element_type.smallest)))
        unit = np.maximum(2 * element_type.unit_roundoff * np.exp2(exponent), element_type.smallest)
        ulp = np.abs(got - expected) / unit
        finite = np.isfinite(got) & np.isfinite(expected) & np.isfinite(ulp)
    return float(np.max(ulp, initial=0.0, where=finite))


def histogram(actual: Array, expected: Array, bound: Array) -> tuple[int, ...]:
    """Count the errors by their size in units of the bound, in the classes between `EDGES`."""
    if actual.shape != expected.shape:
        return (0,) * len(EDGES) + (expected.size,)
    with np.errstate(all="ignore"):
        got = actual.astype(np.float64)
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        relative = np.where(same, 0.0, np.abs(got - expected) / bound)
        relative = np.where(np.isnan(relative), 0.0, relative)
    return tuple(int(count) for count in np.bincount(np.digitize(relative.ravel(), EDGES), minlength=len(EDGES) + 1))
