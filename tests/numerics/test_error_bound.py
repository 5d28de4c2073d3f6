"""The bound holds for right results and is left by wrong ones; NaN and infinities must stand where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from ort_ops.numerics.bound import TENSOR_CORES, TF32, Arithmetic, gamma
from ort_ops.numerics.compare import compare
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.error_bound import linear_bound
from ort_ops.operators.mylinear.reference import linear, linear_float64
from tests.cases import CASES, Case

FLOAT32 = MYLINEAR.element_type("float32")
FLOAT16 = MYLINEAR.element_type("float16")


ORDINARY = [c for c in CASES if c.in_features > 1 and c.out_features and 0 not in c.leading and c.values == "normal"]


@pytest.mark.parametrize("case", ORDINARY, ids=str)
def test_a_wrong_bias_or_a_lost_product_leaves_the_bound(case: Case) -> None:
    sample = case.sample()
    x, weight = sample["x"], sample["weight"]
    assert x is not None
    assert weight is not None
    exact, bound = linear_float64(**sample), case.error_bound()
    without_last = linear(x[..., :-1], weight[:, :-1], sample["bias"])
    assert not compare(without_last, exact, bound, case.element_type).is_within_bound
    transposed_wrongly = linear(x[..., ::-1], weight, sample["bias"])
    assert not compare(transposed_wrongly, exact, bound, case.element_type).is_within_bound


def test_a_second_rounding_leaves_the_bound_of_one() -> None:
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(np.float16) for shape in ((50, 64), (50, 64)))
    exact, bound = linear_float64(x, weight), linear_bound(x, weight, None, FLOAT16)
    rounded_per_product = np.zeros(exact.shape, np.float16)
    for k in range(64):
        rounded_per_product += np.outer(x[:, k], weight[:, k])
    assert compare(linear(x, weight), exact, bound, FLOAT16).is_within_bound
    assert not compare(rounded_per_product, exact, bound, FLOAT16).is_within_bound


@pytest.mark.parametrize(
    ("actual", "expected", "is_within_bound"),
    [
        (np.nan, np.nan, True),
        (np.nan, 1.0, False),
        (1.0, np.nan, False),
        (np.inf, np.inf, True),
        (-np.inf, np.inf, False),
        (np.inf, 1.0, False),
        (1.0, np.inf, False),
        (1.0, 1.0 + 1e-9, True),
        (1.0, 1.1, False),
        (np.inf, 65520.0, True),
        (65504.0, 65519.0, False),
        (np.inf, 65000.0, False),
    ],
)
def test_compare_single_values(actual: float, expected: float, is_within_bound: bool) -> None:
    with np.errstate(over="ignore"):
        got = np.array([actual], np.float16)
    comparison = compare(got, np.array([expected]), np.array([1e-8]), FLOAT16)
    assert comparison.is_within_bound is is_within_bound
    assert (comparison.max_in_bounds <= 1) is is_within_bound


def test_a_nan_bound_does_not_let_a_wrong_value_pass() -> None:
    assert not compare(np.ones(1), np.zeros(1), np.array([np.nan]), FLOAT32).is_within_bound


def test_a_wrong_shape_is_a_violation() -> None:
    comparison = compare(np.ones((1, 2)), np.ones(2), np.ones(2), FLOAT32)
    assert comparison.complaint == "the shape is [1, 2] instead of [2]"


def test_the_complaint_names_the_first_wrong_value() -> None:
    comparison = compare(np.array([[1.0, 2.0]]), np.array([[1.0, 3.0]]), np.full((1, 2), 0.5), FLOAT32)
    assert comparison.complaint is not None
    assert "first at [0, 1]: got 2 instead of 3" in comparison.complaint


def test_gamma_is_infinite_when_the_sum_is_too_long() -> None:
    assert gamma(4, 2.0**-2) == float("inf")
    assert gamma(1, 2.0**-24) == pytest.approx(2.0**-24)


@pytest.mark.parametrize("arithmetic", [TENSOR_CORES, TF32], ids=["tensor cores", "TF32"])
def test_arithmetic_of_matrix_units_has_its_own_bound(arithmetic: Arithmetic) -> None:
    """Factors cut to TF32 and sums of blocks cut off at the last place of the largest, as matrix units do it."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((40, 64), (30, 64)))
    mask = np.uint32(0xFFFFE000) if arithmetic is TF32 else np.uint32(0xFFFFF000)
    if arithmetic is TF32:
        a, b = ((v.view(np.uint32) & mask).view(np.float32) for v in (x, weight))
    else:  # factors that the unit takes in whole
        x, weight = ((v.view(np.uint32) & mask).view(np.float32) for v in (x, weight))
        a, b = x, weight
    y = np.zeros((40, 30))
    for k in range(0, 64, 4):
        addends = [y, *(np.outer(a[:, i].astype(np.float64), b[:, i]) for i in range(k, k + 4))]
        place = np.exp2(np.floor(np.log2(np.max(np.abs(addends), axis=0) + 1e-300)) - 23)
        y = sum(np.trunc(addend / place) * place for addend in addends)
    exact = linear_float64(x, weight)
    bound = linear_bound(x, weight, None, FLOAT32, arithmetic=arithmetic)
    assert compare(y.astype(np.float32), exact, bound, FLOAT32).is_within_bound
    if arithmetic is TF32:
        assert not compare(y.astype(np.float32), exact, linear_bound(x, weight, None, FLOAT32), FLOAT32).is_within_bound
    lost = linear_float64(x[:, :-1], weight[:, :-1])
    assert not compare(lost.astype(np.float32), exact, bound, FLOAT32).is_within_bound
