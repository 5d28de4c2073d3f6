"""The activations of MYLINEAR: their exact values, their constants, and what kernels make of every float32 number.

A slow test takes all 2^32 numbers, in about 10 minutes of one core for each activation and kernel (gelu: 30); the
others have a stride.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from ort_ops import InferenceSession
from ort_ops.models.make import make_model
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.operators.mylinear.version_2.activations import ACTIVATIONS, activated
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS as NAMES
from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2

Array = NDArray[np.float64]
INEXACT = [name for name in NAMES if not ACTIVATIONS[name].is_exact]
_CHUNK = 2**15


def one_by_one(name: str, x: float) -> float:
    """Return an activation by the C library's functions, as the contract has its formula."""
    tanh = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return {
        "none": lambda: x,
        "relu": lambda: max(x, 0.0),
        "gelu": lambda: x / 2 * math.erfc(-x / math.sqrt(2)),
        "gelu_tanh": lambda: x / 2 * (1 + math.tanh(tanh)),
        "silu": lambda: x / (1 + math.exp(-x)),
        "sigmoid": lambda: 1 / (1 + math.exp(-x)),
        "tanh": lambda: math.tanh(x),
    }[name]()


def test_the_contract_and_the_table_have_the_same_names() -> None:
    assert tuple(ACTIVATIONS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_values_are_right_to_a_few_roundings_of_float64(name: str) -> None:
    x = np.concatenate([np.linspace(-30, 30, 4001), np.random.default_rng(0).normal(0, 3, 2000)])
    expected = np.array([one_by_one(name, value) for value in x])
    allowed = 8 * 2.0**-53 * np.maximum(np.abs(expected), np.where(x < 0, np.minimum(-x, 8.0), 0.0))
    assert (np.abs(activated(x, name) - expected) <= allowed).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_ends_are_those_of_ieee_arithmetic(name: str) -> None:
    low, high, nan = activated(np.array([-np.inf, np.inf, np.nan]), name)
    np.testing.assert_array_equal([low, high], ACTIVATIONS[name].ends)
    assert np.isnan(nan)
    largest = np.finfo(np.float64).max
    assert not np.isnan(activated(np.array([largest, -largest]), name)).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_constants_are_those_of_the_functions_and_no_larger(name: str) -> None:
    activation = ACTIVATIONS[name]
    x = np.linspace(-12, 12, 2_400_001)
    slopes = np.abs(np.diff(activated(x, name)) / np.diff(x))
    assert slopes.max() * (1 - 1e-9) <= activation.lipschitz <= slopes.max() + 3e-4
    if activation.least is not None:
        assert abs(x[np.argmin(activated(x, name))] - activation.least) < 2e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_spread_covers_what_is_reached_and_is_no_wider_than_the_lipschitz_constant_allows(name: str) -> None:
    activation = ACTIVATIONS[name]
    generator = np.random.default_rng(1)
    x, radius = generator.normal(0, 4, 3000), 10.0 ** generator.uniform(-9, 1, 3000)
    spread = activation.spread(x, radius)
    assert (spread <= activation.lipschitz * radius).all()
    middle = activated(x, name)
    for part in np.linspace(-1, 1, 41):
        assert (np.abs(activated(x + part * radius, name) - middle) <= spread * (1 + 1e-9) + 1e-15).all()


def float32_numbers(stride: int) -> Iterator[NDArray[np.float32]]:
    """Yield every ``stride``-th float32 number, by its bits: NaN, infinities and denormal numbers too."""
    for start in range(0, 2**32, _CHUNK * stride):
        bits = np.arange(start, min(start + _CHUNK * stride, 2**32), stride, dtype=np.uint64)
        yield bits.astype(np.uint32).view(np.float32)


def excess(name: str, dtype: str, kernels: str, chunks: Iterator[NDArray[np.floating]]) -> float:
    """Return the largest error of an activation in units of what it may be; infinite for a wrong NaN or infinity.

    The sum is the number itself: one factor is 1, and there is no bias.
    """
    one = np.ones((1, 1), dtype)
    model = make_model(MYLINEAR_2, [["n", 1], one, None], {"activation": name}, types={"T": dtype, "TW": dtype})
    session = InferenceSession(model.SerializeToString(), kernels=kernels)
    activation, element_type = ACTIVATIONS[name], ELEMENT_TYPES[dtype]
    worst = 0.0
    for x in chunks:
        got = session.run(None, {"x": x.reshape(-1, 1)})[0].ravel().astype(np.float64)
        with np.errstate(all="ignore"):
            wide = x.astype(np.float64)
            exact = activation.exact(wide)
            allowed = activation.evaluation_error(wide, exact, element_type)
            error = np.abs(got - exact) / np.maximum(allowed, 5e-324)
        is_same = (got == exact) | (np.isnan(got) & np.isnan(exact))
        error = np.where(is_same, 0.0, np.where(np.isnan(error), np.inf, error))
        worst = max(worst, float(error.max(initial=0.0)))
    return worst


@pytest.mark.parametrize("kernels", ["python", "body"])
@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_within_the_error_of_an_evaluation(name: str, kernels: str) -> None:
    worst = excess(name, "float32", kernels, float32_numbers(2**15 + 1))
    assert worst <= 1
    assert worst > 0.01 or ACTIVATIONS[name].is_exact  # else the bound would prove nothing


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["python", "body"])
@pytest.mark.parametrize("name", INEXACT)
def test_kernels_are_within_the_error_of_an_evaluation_for_every_float32_number(name: str, kernels: str) -> None:
    worst = excess(name, "float32", kernels, float32_numbers(1))
    print(f"{name}, {kernels}: {worst:.3f} of the allowed error")
    assert worst <= 1


@pytest.mark.parametrize("kernels", ["python", "body"])
@pytest.mark.parametrize("name", INEXACT)
def test_kernels_are_within_it_in_float64_too(name: str, kernels: str) -> None:
    generator = np.random.default_rng(2)
    dense = generator.uniform(-40, 40, 60_000)
    wide = generator.integers(0, 2**64, 60_000, dtype=np.uint64).view(np.float64)
    assert excess(name, "float64", kernels, iter([dense, wide])) <= 1
