"""The C++ kernels against the float64 reference: shapes x dtypes x bias x ISA x constant or computed weights."""

from __future__ import annotations

import numpy as np
import pytest

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

from tests.native_support import (
    DTYPES,
    Array,
    Case,
    call,
    error_in_bounds,
    one_node_model,
    run,
    session,
    session_options,
)

pytestmark = pytest.mark.native

ISAS = native.status().usable_isas
CONSTANT = pytest.mark.parametrize("constant", [True, False], ids=["constant", "computed"])
ISA = pytest.mark.parametrize("isa", ISAS)
DTYPE = pytest.mark.parametrize("dtype", DTYPES)

# (leading dimensions, N, K). Micro-kernels make 4, 6, 8 or 12 rows of 4 to 32 columns; tiles are 96 rows of 32 or
# 64 columns, blocks of K 128 or 256 deep; up to 4 rows, or a quarter of a micro-kernel's columns, are dot products.
SHAPES = [
    ((0,), 3, 4),
    ((3,), 0, 4),
    ((3,), 4, 0),
    ((9,), 40, 0),
    ((2, 0, 3), 4, 5),
    ((0,), 0, 0),
    ((), 4, 3),
    ((), 1, 1),
    ((1,), 1, 2),
    ((1,), 37, 129),
    ((4,), 33, 65),
    ((5,), 33, 65),
    ((200,), 1, 5),
    ((35,), 2, 70),
    ((33,), 8, 9),
    ((33,), 9, 9),
    ((5,), 31, 1),
    ((6,), 32, 127),
    ((7,), 33, 128),
    ((12,), 63, 129),
    ((13,), 64, 255),
    ((96,), 65, 256),
    ((97,), 129, 257),
    ((193,), 70, 600),
    ((2, 3), 33, 65),
    ((2, 1, 3, 4), 5, 6),
]
CASES = [Case(*shape, dtype, has_bias) for shape in SHAPES for dtype in DTYPES for has_bias in (True, False)]


@ISA
@CONSTANT
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity(case: Case, constant: bool, isa: str) -> None:
    x, weight, bias = case.sample()
    error = error_in_bounds(run(x, weight, bias, constant, session_options(isa)), x, weight, bias)
    assert error <= 1, f"{error} bounds"


@ISA
@CONSTANT
@DTYPE
@pytest.mark.parametrize("rows", [2, 9], ids=["dot", "packed"])
@pytest.mark.parametrize("values", ["edges", "denormal", "cancelling", "large"])
def test_parity_on_edge_values(values: str, rows: int, dtype: str, constant: bool, isa: str) -> None:
    """Infinities, NaN, zeros of both signs; denormals; sums that cancel; results beyond the largest number."""
    rng = np.random.default_rng(7)
    case = Case((rows,), 41, 24, dtype)
    x, weight, bias = (np.zeros(0) if a is None else a.astype(np.float64) for a in case.sample())
    smallest = float(np.finfo(DTYPES[dtype]).smallest_subnormal) if dtype != "bfloat16" else 2.0**-133
    if values == "edges":
        for array in (x, weight, bias):
            special = rng.choice([np.inf, -np.inf, np.nan, 0.0, -0.0], array.shape)
            array[...] = np.where(rng.random(array.shape) < 0.05, special, array)
    elif values == "denormal":
        x, bias = x * smallest * 8, bias * smallest * 8
    elif values == "cancelling":
        x[:, 12:] = -x[:, :12]
        weight[:, 12:] = weight[:, :12]
        x, bias = x * 100, bias * 1e-3
    else:  # only the result may overflow, not a partial sum in float32
        weight = np.abs(weight) * (100 if dtype == "float16" else 1)
        x = np.abs(x) * (100 if dtype == "float16" else 1)
    with np.errstate(all="ignore"):
        arrays = [array.astype(DTYPES[dtype]) for array in (x, weight, bias)]
    error = error_in_bounds(run(*arrays, constant, session_options(isa)), *arrays)
    assert error <= 1, f"{error} bounds"


@ISA
@DTYPE
@pytest.mark.parametrize("rows", [1, 9], ids=["dot", "packed"])
def test_infinities_and_nan_land_where_ieee_arithmetic_puts_them(rows: int, dtype: str, isa: str) -> None:
    inf, nan = np.inf, np.nan
    w_rows = [[1, 1], [inf, 1], [-inf, 1], [inf, -inf], [nan, 0], [0, 0]] * 8  # enough columns for a panel
    x = np.ones((rows, 2)).astype(DTYPES[dtype])
    weight = np.array(w_rows).astype(DTYPES[dtype])
    y = run(x, weight, None, True, session_options(isa)).astype(np.float64)
    np.testing.assert_array_equal(y, np.tile([2, inf, -inf, nan, nan, 0], (rows, 8)))
    x[:, 1] = inf  # 0 * inf is NaN, also beside a padded column
    y = run(x, weight, None, True, session_options(isa)).astype(np.float64)
    np.testing.assert_array_equal(y, np.tile([inf, inf, nan, nan, nan, nan], (rows, 8)))


def _same_bits(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@ISA
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 9], ids=["dot", "packed"])
def test_small_dtypes_round_once_to_nearest_even(rows: int, dtype: str, isa: str) -> None:
    """Sums of two that float32 holds exactly, many of them half-way between two numbers, down to denormals."""
    rng = np.random.default_rng(3)
    significand_bits = 10 if dtype == "float16" else 7
    first = rng.integers(2**significand_bits, 2 ** (significand_bits + 1), 4000).astype(np.float64)
    second = rng.choice([-0.75, -0.5, -0.25, 0.25, 0.5, 0.75], 4000)
    scale = np.exp2(rng.integers(-12, 5, 4000) - significand_bits)
    if dtype == "float16":
        scale[:1000] = 2.0**-24 / np.exp2(rng.integers(0, 9, 1000))
        first[:1000] = np.round(first[:1000] / 512) * 512  # representable there
        second[:1000] = 0
    weight = np.stack([first * scale, second * scale], axis=1).astype(DTYPES[dtype])
    x = np.ones((rows, 2), DTYPES[dtype])
    expected = (weight.astype(np.float64).sum(axis=1)).astype(np.float32).astype(DTYPES[dtype])
    assert _same_bits(run(x, weight, None, True, session_options(isa)), np.tile(expected, (rows, 1)))


@DTYPE
def test_denormal_results_are_not_flushed_to_zero(dtype: str) -> None:
    tiny = np.array([[2.0**-20 if dtype == "float16" else 2.0**-130]])
    if dtype == "float64":
        tiny = np.array([[2.0**-1060]])
    x = tiny.astype(DTYPES[dtype])
    assert x[0, 0] != 0
    y = run(x, np.ones((1, 1), DTYPES[dtype]), None, True)
    assert y[0, 0] == x[0, 0]


@ISA
@CONSTANT
@pytest.mark.parametrize("rows", [1, 4, 40])
def test_denormal_weights_are_not_taken_for_zero(rows: int, constant: bool, isa: str) -> None:
    """Instructions for bfloat16 do that; and a weight that had none in one call may have some in the next."""
    x = np.full((rows, 64), 2.0**100, DTYPES["bfloat16"])
    plain, tiny = (np.full((33, 64), value, DTYPES["bfloat16"]) for value in (1, 2.0**-130))
    for weights in ((plain, tiny, plain), (tiny, tiny)):
        opened = None
        for weight in weights:
            if constant or opened is None:
                fixed = {"W": weight} if constant else {}
                opened = session(one_node_model("bfloat16", 2, fixed, has_bias=False), session_options(isa))
            for _ in range(2):
                y = call(opened, {"X": x} | ({} if constant else {"W": weight})).astype(np.float64)
                assert np.all(y == 64 * 2.0**100 * float(weight[0, 0]))


@DTYPE
@pytest.mark.parametrize("rows", [2, 9], ids=["dot", "packed"])
def test_negative_zero_is_no_bias(rows: int, dtype: str) -> None:
    x, weight, _ = Case((rows,), 33, 5, dtype).sample()
    x[0] = 0
    absent = np.full(33, -0.0, DTYPES[dtype])
    assert _same_bits(run(x, weight, absent, True), run(x, weight, None, True))


@DTYPE
def test_computed_weights_give_the_bits_of_constant_ones(dtype: str) -> None:
    for rows in (1, 4, 5, 100):
        x, weight, bias = Case((rows,), 70, 300, dtype).sample()
        assert _same_bits(run(x, weight, bias, True), run(x, weight, bias, False))


@DTYPE
def test_a_row_has_the_same_bits_whatever_rows_are_beside_it(dtype: str) -> None:
    x, weight, bias = Case((200,), 70, 300, dtype).sample()
    whole = run(x, weight, bias, True)
    assert _same_bits(whole[95:195], run(x[95:195], weight, bias, True))
