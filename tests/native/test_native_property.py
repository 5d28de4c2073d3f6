"""Any shape, element type, layout and instruction set: the C++ kernels stay within the bound."""

from __future__ import annotations

import numpy as np
import pytest

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.native_support import DTYPES, Array, error_in_bounds, run, session_options

pytestmark = pytest.mark.native

sizes = st.one_of(st.integers(0, 10), st.integers(0, 140))


@st.composite
def arguments(draw: st.DrawFn) -> tuple[Array, Array, Array | None]:
    """Draw x, weight and bias; x and weight dense, transposed, strided or reversed views."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    leading = draw(st.one_of(sizes.map(lambda rows: (rows,)), st.lists(st.integers(0, 5), max_size=4).map(tuple)))
    out_features, in_features = draw(sizes), draw(st.one_of(sizes, st.integers(250, 300)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    exponents = draw(st.integers(0, 5))

    def sample(*shape: int) -> Array:
        values = rng.standard_normal(shape) * np.exp2(rng.integers(-exponents, exponents + 1, shape))
        layout = draw(st.sampled_from(["dense", "transposed", "strided", "reversed"]))
        array: Array = values.astype(dtype)
        if layout == "transposed":
            return np.asfortranarray(array)
        if layout == "strided":
            return np.repeat(array, 2, axis=0)[::2]
        return array[::-1] if layout == "reversed" else array

    bias = sample(out_features) if draw(st.booleans()) else None
    return sample(*leading, in_features), sample(out_features, in_features), bias


@given(arguments(), st.booleans(), st.sampled_from(native.status().usable_isas))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
def test_any_call_is_within_the_bound(args: tuple[Array, Array, Array | None], constant: bool, isa: str) -> None:
    error = error_in_bounds(run(*args, constant, session_options(isa)), *args)
    assert error <= 1, f"{error} bounds"
