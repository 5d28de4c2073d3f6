"""The comparator beyond floating-point numbers: equality bit by bit, integers with a bound, types and counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ort_ops.numerics.bound import Bound
from ort_ops.numerics.compare import Comparison, Verdict, compare, compare_exactly, compare_output, worst_of
from ort_ops.numerics.faults import WrongShape, WrongType, WrongValues
from ort_ops.opdef.element_types import ELEMENT_TYPES

INT64, FLOAT32 = np.dtype(np.int64), np.dtype(np.float32)


def integers(actual: Any, expected: Any, allowed: Any = None) -> Comparison:
    bound = None if allowed is None else Bound(np.asarray(allowed, np.float64))
    return compare_output(np.array(actual), np.array(expected), bound, ELEMENT_TYPES["int64"], INT64)


def test_integers_are_equal_or_within_their_bound() -> None:
    assert integers([1, 2], [1, 2]).verdict is Verdict.OK
    assert integers([1, 3], [1, 2]).fault == WrongValues(1, 2, (1,), "3", "2")
    assert integers([1, 3], [1, 2], [0, 1]).verdict is Verdict.OK
    assert integers([2, 2], [1, 2], [0, 1]).verdict is Verdict.VIOLATED
    assert integers([9, 2], [1, 2], [np.inf, 0]).verdict is Verdict.UNBOUNDED


def test_integers_beyond_float64_are_told_apart() -> None:
    large = 2**62
    assert integers([large + 1], [large]).verdict is Verdict.VIOLATED
    assert integers([large + 1], [large], [0]).verdict is Verdict.VIOLATED


def test_bits_tell_the_signs_of_zero_apart_and_not_those_of_nan() -> None:
    a = np.array([0.0, np.nan, 1.0], np.float32)
    assert compare_exactly(a, np.array([0.0, -np.nan, 1.0], np.float32)).verdict is Verdict.OK
    assert compare_exactly(a, np.array([-0.0, np.nan, 1.0], np.float32)).verdict is Verdict.VIOLATED
    assert compare_exactly(a, np.array([0.0, 1.0, 1.0], np.float32)).verdict is Verdict.VIOLATED


@pytest.mark.parametrize("actual", ["b", ""])
def test_text_is_compared(actual: str) -> None:
    expected = np.array(["a"], object)
    assert compare_exactly(np.array([actual], object), expected).fault == WrongValues(1, 1, (0,), actual, "a")
    assert compare_exactly(expected, expected).verdict is Verdict.OK


def test_another_type_or_shape_is_wrong() -> None:
    exact = np.zeros(2)
    element_type = ELEMENT_TYPES["float32"]
    found = compare_output(np.zeros(2), exact, Bound(np.ones(2)), element_type, FLOAT32)
    assert found.fault == WrongType("float64", "float32")
    found = compare_output(np.zeros((1, 2), np.float32), exact, Bound(np.ones(2)), element_type, FLOAT32)
    assert found.fault == WrongShape((1, 2), (2,))
    assert found.complaint == "the shape is [1, 2] instead of [2]"


def test_an_infinite_bound_is_unbounded_and_the_worst_verdict_wins() -> None:
    element_type = ELEMENT_TYPES["float32"]
    free = compare(np.array([5.0], np.float32), np.zeros(1), np.array([np.inf]), element_type)
    assert free.verdict is Verdict.UNBOUNDED
    assert not free.is_proof
    right = compare(np.array([0.0], np.float32), np.zeros(1), np.array([0.0]), element_type)
    assert right.verdict is Verdict.OK
    assert right.is_proof
    assert worst_of([right, free]).verdict is Verdict.UNBOUNDED
    wrong = compare(np.array([np.nan], np.float32), np.zeros(1), np.array([np.inf]), element_type)
    assert worst_of([right, free, wrong]).verdict is Verdict.VIOLATED
    assert [v.rank for v in (Verdict.OK, Verdict.UNDECIDED, Verdict.UNBOUNDED, Verdict.VIOLATED)] == [0, 1, 2, 3]
