"""The one comparator: a result beside the exact one. NaN and infinities first, then |got - exact| <= bound."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.bound import Bound
from ort_ops.opdef.element_types import ElementType

Array = NDArray[Any]


class Verdict(Enum):
    """What a comparison found; only `OK` says that the result is right."""

    OK = "ok"
    UNDECIDED = "undecided"
    """Some values hang on a decision, such as a comparison of numbers, that rounding errors may turn."""
    UNBOUNDED = "unbounded"
    """Some values have no bound, or one as large as the values themselves, and so any value would do."""
    VIOLATED = "violated"


@dataclass(frozen=True)
class Comparison:
    """One result beside the exact one.

    Attributes:
        max_error: largest absolute error where both are finite and bounded; 0 for no elements.
        max_in_bounds: largest error in units of its bound; at most 1 for a right kernel. Infinite where NaN or
            infinity stand in the wrong place. Values that are undecided or unbounded do not count.
        complaint: what is wrong and where; None if nothing is.
        num_values: all of them.
        num_undecided: that were not compared, because rounding errors may turn a decision before them.
        num_unbounded: for which nothing but NaN would have been wrong, or not even that where the contract allows it.
    """

    max_error: float
    max_in_bounds: float
    complaint: str | None
    num_values: int = 0
    num_undecided: int = 0
    num_unbounded: int = 0

    @property
    def is_within_bound(self) -> bool:
        """Whether nothing is wrong; `verdict` says whether anything was proved."""
        return self.complaint is None

    @property
    def verdict(self) -> Verdict:
        """The worst that is true of any value."""
        if self.complaint is not None:
            return Verdict.VIOLATED
        if self.num_unbounded:
            return Verdict.UNBOUNDED
        return Verdict.UNDECIDED if self.num_undecided else Verdict.OK

    @property
    def text(self) -> str:
        """The verdict in words: the complaint, or how many values are not proved."""
        if self.complaint is not None or self.verdict is Verdict.OK:
            return self.complaint or Verdict.OK.value
        counts = ((self.num_unbounded, Verdict.UNBOUNDED), (self.num_undecided, Verdict.UNDECIDED))
        parts = [f"{count} {verdict.value}" for count, verdict in counts if count]
        return f"{' and '.join(parts)} of {self.num_values} values, no other is off"


def compare(
    actual: Array,
    expected: Array,
    bound: Array | Bound,
    element_type: ElementType,
    undecided: NDArray[np.bool_] | None = None,
) -> Comparison:
    """Compare a result with the exact one: NaN and infinities first, then finite values.

    Args:
        actual: the result, in any dtype.
        expected: the exact result, float64, shape of ``actual``; not rounded to the element type.
        bound: largest allowed |actual - expected|, shape of ``actual``; or what the contract allows. An infinite bound
            allows any value but NaN, and is counted.
        element_type: of ``actual``; decides where a finite result may become infinite.
        undecided: where no value is wrong; None for nowhere.
    """
    if actual.shape != expected.shape:
        shapes = f"the shape is {list(actual.shape)} instead of {list(expected.shape)}"
        return Comparison(float("inf"), float("inf"), shapes, expected.size)
    with np.errstate(invalid="ignore"):  # of signalling NaN
        got = actual.astype(np.float64)
    skipped = np.zeros(got.shape, bool) if undecided is None else undecided
    error_bound = bound.error if isinstance(bound, Bound) else bound
    with np.errstate(all="ignore"):
        # Rounding to nearest makes infinity of what is half a unit in the last place beyond the largest number.
        may_overflow = np.abs(expected) + error_bound >= element_type.largest * (1 + element_type.unit_roundoff / 2)
        is_same = (np.isnan(got) & np.isnan(expected)) | (got == expected)
        is_same |= may_overflow & np.isinf(got) & (np.signbit(got) == np.signbit(expected))
        is_free = np.isinf(error_bound) & np.isfinite(expected) & ~np.isnan(got)
        if isinstance(bound, Bound):
            is_free |= ~is_same & _is_overflow(got, expected, bound)
        is_free &= ~skipped
        is_same |= is_free | skipped
        error = np.where(is_same, 0.0, np.abs(got - expected))
        finite = np.isfinite(got) & np.isfinite(expected)
        in_bounds = np.where(is_same, 0.0, np.where(finite, error / error_bound, np.inf))
        in_bounds = np.where(np.isnan(in_bounds), np.inf, in_bounds)
        is_wrong = ~(is_same | (finite & (error <= error_bound)))
        max_error = float(np.max(np.abs(got - expected), initial=0.0, where=finite & ~is_free & ~skipped))
    complaint = None
    if is_wrong.any():
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(is_wrong)), is_wrong.shape))
        complaint = (
            f"{int(is_wrong.sum())} of {is_wrong.size} values are off, the first at {list(index)}: "
            f"got {got[index]:.9g} instead of {expected[index]:.9g}, allowed error {error_bound[index]:.3g}"
        )
    counts = (got.size, int(skipped.sum()), int(is_free.sum()))
    return Comparison(max_error, float(np.max(in_bounds, initial=0.0)), complaint, *counts)


def _is_overflow(got: Array, expected: Array, bound: Bound) -> NDArray[np.bool_]:
    """Whether a value is what the contract allows where partial sums overflow; an exact NaN stays NaN."""
    above, below = bound.above | (expected == np.inf), bound.below | (expected == -np.inf)
    as_above, as_below = above & (got == np.inf), below & (got == -np.inf)
    as_both = above & below & np.isnan(got)
    overflowed: NDArray[np.bool_] = (as_above | as_below | as_both) & (bound.above | bound.below)
    return overflowed & ~np.isnan(expected)


def compare_exactly(actual: Array, expected: Array, undecided: NDArray[np.bool_] | None = None) -> Comparison:
    """Compare integers, booleans or text, which have no rounding errors."""
    if actual.shape != expected.shape:
        shapes = f"the shape is {list(actual.shape)} instead of {list(expected.shape)}"
        return Comparison(float("inf"), float("inf"), shapes, expected.size)
    skipped = np.zeros(expected.shape, bool) if undecided is None else undecided
    is_wrong = (actual != expected) & ~skipped
    complaint, distance = None, 0.0
    if is_wrong.any():
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(is_wrong)), is_wrong.shape))
        complaint = (
            f"{int(is_wrong.sum())} of {is_wrong.size} values differ, the first at {list(index)}: "
            f"got {actual[index]} instead of {expected[index]}"
        )
        distance = float("inf")
    return Comparison(distance, distance, complaint, expected.size, int(skipped.sum()))
