"""Every road computes the same as the float64 reference, within the derived bound."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ort_ops.native import library as native
from ort_ops.numerics.compare import compare
from ort_ops.operators.mylinear.reference import linear_float64
from tests.cases import CASES, Case
from tests.kernels import ROADS, Eager, Road

# What a road does with a dtype that it does not have is tested in test_session.py.
PAIRS = [(road, case) for road in ROADS for case in CASES if case.dtype in road.dtypes]
SMALL_PAIRS = [(r, c) for r, c in PAIRS if c.dtype in ("float16", "bfloat16") and not isinstance(r, Eager)]


def test_every_dtype_is_served_by_several_roads() -> None:
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        served = {road.name for road, c in PAIRS if c.dtype == dtype}
        assert {"eager", "library op", "evaluator", "body"} <= served
        assert served >= {f"cpp[{isa}]" for isa in native.status().usable_isas}


@pytest.mark.parametrize(("road", "case"), PAIRS, ids=str)
def test_parity(road: Road, case: Case) -> None:
    sample = case.sample()
    actual = road.run(**sample)
    assert actual.dtype.name == case.dtype
    comparison = compare(actual, linear_float64(**sample), case.bound(), case.element_type)
    assert comparison.is_within_bound, comparison.complaint


@pytest.mark.parametrize(("road", "case"), SMALL_PAIRS, ids=str)
def test_small_dtypes_err_at_most_twice_as_much_as_torch(road: Road, case: Case) -> None:
    sample = case.sample()
    exact = linear_float64(**sample)
    bound = case.bound()
    finite = np.isfinite(exact) & (np.abs(exact) < case.element_type.largest) & ~(bound.above | bound.below)

    def max_error(road: Road) -> float:
        actual: NDArray[np.float64] = road.run(**sample).astype(np.float64)
        assert np.isfinite(actual[finite]).all()
        return float(np.abs(actual[finite] - exact[finite]).max(initial=0.0))

    assert max_error(road) <= 2 * max_error(Eager("eager")) + case.element_type.smallest
