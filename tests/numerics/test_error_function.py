"""The error function in float64: by scipy, by the C library, and as a formula of standard operators."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from ort_ops.numerics import error_function
from ort_ops.numerics.error_function import NumpyOperations, erf, erf_formula, erfc

X = np.concatenate([np.random.default_rng(0).uniform(-7, 7, 50_000), [5.999, 6.0, 6.1, 1e-320, -1e-9, 1 / 512]])
SPECIAL = np.array([[0.0, -0.0], [np.inf, -np.inf], [np.nan, 2.0]])


@pytest.mark.parametrize("has_scipy", [True, False])
def test_both_are_right_to_the_last_places_of_float64(has_scipy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_scipy:
        monkeypatch.setitem(sys.modules, "scipy.special", None)
    monkeypatch.setattr(error_function, "_of_arrays", error_function._of_arrays.__wrapped__)
    squares = 1 + np.maximum(X, 0) ** 2  # by which exp(-x^2) makes one rounding of x^2 larger
    for function, one, roundings in ((erf, math.erf, np.float64(4)), (erfc, math.erfc, 8 * squares)):
        exact = np.array([one(value) for value in X])
        assert (np.abs(function(X) - exact) <= roundings * np.spacing(np.abs(exact))).all()
        special = [[one(value) for value in row] for row in SPECIAL.tolist()]
        np.testing.assert_allclose(function(SPECIAL), special, rtol=4 * 2.0**-53)
        assert function(np.zeros((0, 3))).shape == (0, 3)
    assert np.signbit(erf(SPECIAL)[0, 1])


def test_the_formula_is_right_to_a_few_roundings() -> None:
    found = erf_formula(X, NumpyOperations, np.float64)
    exact = np.array([math.erf(value) for value in X])
    assert (np.abs(found - exact) <= 4 * np.spacing(np.abs(exact))).all()
    with np.errstate(invalid="ignore"):
        special = erf_formula(SPECIAL, NumpyOperations, np.float64)
    np.testing.assert_array_equal(special, [[0.0, 0.0], [1, -1], [np.nan, math.erf(2.0)]])
