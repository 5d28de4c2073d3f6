"""The C++ kernels against the float64 reference: shapes x dtypes x bias x ISA x constant or computed weights."""

from __future__ import annotations

import pytest

native = pytest.importorskip("ort_ops.native")
if not native.status().is_usable:
    pytest.skip(native.status().reason, allow_module_level=True)

from tests.native_support import DTYPES, Case, error_in_bounds, run, session_options  # noqa: E402

pytestmark = pytest.mark.native

ISAS = native.status().usable_isas
SHAPES = [((3,), 5, 7), ((2, 3), 33, 65), ((100,), 70, 300), ((), 4, 3)]
CASES = [Case(*shape, dtype, has_bias) for shape in SHAPES for dtype in DTYPES for has_bias in (True, False)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "computed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity(case: Case, constant: bool, isa: str) -> None:
    x, weight, bias = case.sample()
    y = run(x, weight, bias, constant, session_options(isa))
    error = error_in_bounds(y, x, weight, bias)
    assert error <= 1, f"{error} bounds"
