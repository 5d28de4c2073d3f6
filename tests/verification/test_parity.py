"""Every backend computes what the float64 reference does, within the derived bound."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ort_ops.native import library as native
from ort_ops.numerics.compare import compare
from ort_ops.operators.mylinear.reference import linear_float64
from tests.cases import CASES, Case
from tests.kernels import BACKENDS, Backend, Eager

# test_session.py tests what a backend does with a dtype that it does not have.
PAIRS = [(backend, case) for backend in BACKENDS for case in CASES if case.dtype in backend.dtypes]
SMALL_PAIRS = [(r, c) for r, c in PAIRS if c.dtype in ("float16", "bfloat16") and not isinstance(r, Eager)]


def test_every_dtype_is_served_by_several_backends() -> None:
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        served = {backend.name for backend, c in PAIRS if c.dtype == dtype}
        assert {"eager", "library op", "evaluator", "body"} <= served
        assert served >= {f"cpp[{isa}]" for isa in native.status().usable_isas}


@pytest.mark.parametrize(("backend", "case"), PAIRS, ids=str)
def test_parity(backend: Backend, case: Case) -> None:
    sample = case.sample()
    actual = backend.run(**sample)
    assert actual.dtype.name == case.dtype
    comparison = compare(actual, linear_float64(**sample), case.bound(), case.element_type)
    assert comparison.is_within_bound, comparison.complaint


@pytest.mark.parametrize(("backend", "case"), SMALL_PAIRS, ids=str)
def test_small_dtypes_err_at_most_twice_as_much_as_torch(backend: Backend, case: Case) -> None:
    sample = case.sample()
    exact = linear_float64(**sample)
    bound = case.bound()
    finite = np.isfinite(exact) & (np.abs(exact) < case.element_type.largest) & ~(bound.above | bound.below)

    def max_error(backend: Backend) -> float:
        actual: NDArray[np.float64] = backend.run(**sample).astype(np.float64)
        assert np.isfinite(actual[finite]).all()
        return float(np.abs(actual[finite] - exact[finite]).max(initial=0.0))

    assert max_error(backend) <= 2 * max_error(Eager("eager")) + case.element_type.smallest
