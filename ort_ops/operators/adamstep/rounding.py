"""Numbers with a bound on how far a right kernel may be from them, and the operations that a kernel rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.opdef.element_types import ELEMENT_TYPES, ElementType

Array = NDArray[Any]

_FLOAT64 = ELEMENT_TYPES["float64"]


@dataclass(frozen=True)
class Number:
    """Numbers in float64, and what a kernel may have in their place.

    Attributes:
        exact: as float64 computes them.
        error: how far a kernel may be off.
        is_unsure: where a kernel may have an infinity or NaN, or divides by what may be 0.
    """

    exact: Array
    error: Array
    is_unsure: Array

    @classmethod
    def given(cls, array: Array) -> Number:
        """Return numbers that the kernel has as they are."""
        exact = np.asarray(array, np.float64)
        return cls(exact, np.zeros(exact.shape), np.zeros(exact.shape, np.bool_))


class Rounding:
    """The operations of one element type, each rounded once by the kernel, and once by float64 itself."""

    def __init__(self, element_type: ElementType) -> None:
        self._roundoff = element_type.unit_roundoff + _FLOAT64.unit_roundoff
        self._smallest = element_type.smallest + _FLOAT64.smallest
        self._largest = element_type.largest

    def add(self, a: Number, b: Number) -> Number:
        """Return a + b."""
        return self._rounded(a.exact + b.exact, a.error + b.error, a.is_unsure | b.is_unsure)

    def sub(self, a: Number, b: Number) -> Number:
        """Return a - b."""
        return self._rounded(a.exact - b.exact, a.error + b.error, a.is_unsure | b.is_unsure)

    def mul(self, a: Number, b: Number) -> Number:
        """Return a b."""
        error = abs(a.exact) * b.error + abs(b.exact) * a.error + a.error * b.error
        return self._rounded(a.exact * b.exact, error, a.is_unsure | b.is_unsure)

    def div(self, a: Number, b: Number) -> Number:
        """Return a / b."""
        quotient = a.exact / b.exact
        smallest = abs(b.exact) - b.error
        is_unsure = a.is_unsure | b.is_unsure | ((smallest <= 0) & (b.error > 0))
        return self._rounded(quotient, (a.error + abs(quotient) * b.error) / smallest, is_unsure)

    def sqrt(self, a: Number) -> Number:
        """Return the root of a, which is not negative.

        The distance of the roots of a and b is at most root |a - b|, and at most |a - b| / root a.
        """
        root = np.sqrt(a.exact)
        return self._rounded(root, np.fmin(np.sqrt(a.error), a.error / root), a.is_unsure)

    def pow(self, a: Number, b: Number) -> Number:
        """Return a to the power of b, both as given; libraries are off by less than two units in the last place."""
        power = a.exact**b.exact
        return self._rounded(power, 4 * self._roundoff * abs(power), a.is_unsure | b.is_unsure)

    def cast(self, a: Number) -> Number:
        """Return a in this element type."""
        return self._rounded(a.exact, a.error, a.is_unsure)

    def _rounded(self, exact: Array, error: Array, is_unsure: Array) -> Number:
        error = error + self._roundoff * (abs(exact) + error) + self._smallest
        error = np.where(np.isfinite(exact), error, 0.0)  # of what is not finite, the place counts
        return Number(exact, error, is_unsure | (abs(exact) + error >= self._largest))
