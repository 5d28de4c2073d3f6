"""The one comparator of a result with the exact one: NaN and infinities first, then |got - exact| <= bound.

There are two kinds of bound: derived element by element (`ort_ops.opdef.kit.OperatorKit.bound`), and derived for a
whole graph (`ort_ops.analysis.float64_run`). Results without rounding errors are compared bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.numerics.bound import Bound
from ort_ops.numerics.faults import Failure, Fault, WrongCount, WrongShape, WrongType, WrongValues
from ort_ops.opdef.element_types import ElementType

Array = NDArray[Any]


class Verdict(Enum):
    """The result of a comparison, from right to wrong; only `OK` says that the result is right."""

    OK = "ok"
    UNDECIDED = "undecided"
    """Some values hang on a decision, such as a comparison of numbers, that rounding errors may turn."""
    UNBOUNDED = "unbounded"
    """Some values have no bound, or one as large as the values themselves, so any value would pass."""
    VIOLATED = "violated"

    @property
    def rank(self) -> int:
        """How bad it is; 0 for `OK`."""
        return list(Verdict).index(self)


@dataclass(frozen=True)
class Comparison:
    """One result compared with the exact one.

    Attributes:
        max_error: largest absolute error where both are finite and bounded; 0 for no elements.
        max_in_bounds: largest error in units of its bound; at most 1 for a right kernel. Infinite where NaN or
            infinity is in the wrong place. Values that are undecided or unbounded do not count.
        fault: what is wrong and where; None if nothing is.
        num_values: number of all values.
        num_undecided: not compared, because rounding errors may turn a decision before them.
        num_unbounded: any value but NaN would have passed, or also NaN where the contract allows it.
    """

    max_error: float
    max_in_bounds: float
    fault: Fault | None
    num_values: int = 0
    num_undecided: int = 0
    num_unbounded: int = 0

    @property
    def complaint(self) -> str | None:
        """The fault in words; None if nothing is wrong."""
        return None if self.fault is None else str(self.fault)

    @property
    def is_within_bound(self) -> bool:
        """Whether nothing is wrong; `verdict` says whether anything was proved."""
        return self.fault is None

    @property
    def is_proof(self) -> bool:
        """Whether any value was compared, or there are none."""
        return not self.num_values or self.num_unbounded + self.num_undecided < self.num_values

    @property
    def verdict(self) -> Verdict:
        """The worst that is true of any value."""
        if self.fault is not None:
            return Verdict.VIOLATED
        if self.num_unbounded:
            return Verdict.UNBOUNDED
        return Verdict.UNDECIDED if self.num_undecided else Verdict.OK

    @property
    def text(self) -> str:
        """The verdict in words: the fault, or how many values are not proved."""
        if self.fault is not None:
            return str(self.fault)
        counts = ((self.num_unbounded, Verdict.UNBOUNDED), (self.num_undecided, Verdict.UNDECIDED))
        parts = [f"{count} {verdict.value}" for count, verdict in counts if count]
        if not parts:
            return Verdict.OK.value
        return f"{' and '.join(parts)} of {self.num_values} values, no other is off"

    @property
    def distance(self) -> tuple[int, float]:
        """How far off it is: the larger, the worse."""
        return self.verdict.rank, self.max_in_bounds


def failed(fault: Fault, num_values: int = 0) -> Comparison:
    """Return the comparison of a result that is missing, or of the wrong kind."""
    return Comparison(math.inf, math.inf, fault, num_values)


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
        undecided: where no value counts as wrong; None for nowhere.
    """
    if actual.shape != expected.shape:
        return failed(WrongShape(actual.shape, expected.shape), expected.size)
    with np.errstate(invalid="ignore"):  # from signalling NaN
        got = actual.astype(np.float64)
    skipped = np.zeros(got.shape, bool) if undecided is None else undecided
    error_bound = bound.error if isinstance(bound, Bound) else bound
    with np.errstate(all="ignore"):
        # Rounding to nearest gives infinity from half a unit in the last place beyond the largest number on.
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
    fault = None
    if is_wrong.any():
        index = _first(is_wrong)
        numbers = (float(np.broadcast_to(a, got.shape)[index]) for a in (got, expected, error_bound))
        fault = WrongValues(int(is_wrong.sum()), is_wrong.size, index, *numbers)
    counts = (got.size, int(skipped.sum()), int(is_free.sum()))
    return Comparison(max_error, float(np.max(in_bounds, initial=0.0)), fault, *counts)


def compare_exactly(actual: Array, expected: Array, undecided: NDArray[np.bool_] | None = None) -> Comparison:
    """Compare results without rounding errors: integers, booleans, text, and numbers that must be equal bit by bit.

    NaN is equal to NaN, whatever its bits; 0 is not equal to -0.
    """
    return _compare_equal(actual, expected, undecided, None)


def compare_output(
    actual: Array, expected: Array, bound: Bound | None, element_type: ElementType, dtype: np.dtype[Any]
) -> Comparison:
    """Compare one output of an operator with its reference.

    Args:
        expected: of `OperatorKit.reference`: float64, or integers and booleans.
        bound: of `OperatorKit.bound`; None where the output must be equal bit by bit.
        element_type: of the output.
        dtype: the one that the output must have.
    """
    if actual.dtype != dtype:
        return failed(WrongType(actual.dtype.name, dtype.name), expected.size)
    if bound is None:
        with np.errstate(all="ignore"):
            return compare_exactly(actual, expected.astype(dtype))
    if element_type.is_floating:
        return compare(actual, expected, bound, element_type)
    return _compare_equal(actual, expected, None, bound.error)


def worst_of(comparisons: Iterable[Comparison]) -> Comparison:
    """Return the comparison that is furthest off, with the counts of all."""
    found = list(comparisons)
    worst = max(found, key=lambda c: (not c.is_within_bound, c.max_in_bounds))
    counts = {name: sum(getattr(c, name) for c in found) for name in ("num_values", "num_undecided", "num_unbounded")}
    largest = max(c.max_error for c in found)
    return replace(worst, max_error=max(worst.max_error, largest), **counts)


def _compare_equal(
    actual: Array, expected: Array, undecided: NDArray[np.bool_] | None, allowed: Array | None
) -> Comparison:
    """Compare bit by bit; integers may be off by ``allowed`` where that is more than 0."""
    if actual.shape != expected.shape:
        return failed(WrongShape(actual.shape, expected.shape), expected.size)
    skipped = np.zeros(expected.shape, bool) if undecided is None else undecided
    is_wrong = (actual != expected) & ~skipped
    if actual.dtype.kind not in "iubOSUT" and expected.dtype.kind not in "iubOSUT":
        with np.errstate(invalid="ignore"):
            is_nan = np.isnan(actual) & np.isnan(expected)
            is_other_zero = np.signbit(actual) != np.signbit(expected)
        is_wrong = (is_wrong | is_other_zero) & ~is_nan & ~skipped
    unbounded = 0
    if allowed is not None:
        unbounded = int((np.isinf(allowed) & ~skipped).sum())
        with np.errstate(all="ignore"):
            distance = np.abs(actual.astype(np.longdouble) - expected.astype(np.longdouble))
        is_wrong &= ~((allowed > 0) & (distance <= allowed))
    fault, size = None, 0.0
    if is_wrong.any():
        index = _first(is_wrong)
        fault = WrongValues(int(is_wrong.sum()), is_wrong.size, index, str(actual[index]), str(expected[index]))
        size = math.inf
    return Comparison(size, size, fault, expected.size, int(skipped.sum()), unbounded)


def _first(is_wrong: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(is_wrong)), is_wrong.shape))


def _is_overflow(got: Array, expected: Array, bound: Bound) -> NDArray[np.bool_]:
    """Whether a value is what the contract allows where partial sums overflow; an exact NaN stays NaN."""
    above, below = bound.above | (expected == np.inf), bound.below | (expected == -np.inf)
    as_above, as_below = above & (got == np.inf), below & (got == -np.inf)
    as_both = above & below & np.isnan(got)
    overflowed: NDArray[np.bool_] = (as_above | as_below | as_both) & (bound.above | bound.below)
    return overflowed & ~np.isnan(expected)


__all__ = [
    "Comparison",
    "Failure",
    "Fault",
    "Verdict",
    "WrongCount",
    "compare",
    "compare_exactly",
    "compare_output",
    "failed",
    "worst_of",
]
