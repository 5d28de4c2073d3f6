"""The C++ kernels in the small element types err at most twice as much as PyTorch itself does."""

from __future__ import annotations

import numpy as np
import pytest

from ort_ops.native import library as native

if not native.status().is_usable:
    pytest.skip(str(native.status().reason), allow_module_level=True)

import torch

from ort_ops.operators.mylinear.reference import linear_float64
from tests.native_support import Case, run, session_options

pytestmark = pytest.mark.native

SHAPES = [((1,), 64, 300), ((4,), 33, 65), ((7,), 33, 129), ((97,), 129, 257), ((16,), 70, 2000)]


@pytest.mark.parametrize("isa", native.status().usable_isas)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_at_most_twice_that_of_torch(shape: tuple[tuple[int, ...], int, int], dtype: str, isa: str) -> None:
    x, weight, bias = Case(*shape, dtype).sample()
    assert bias is not None
    exact = linear_float64(x, weight, bias)
    tensors = [torch.from_numpy(a.astype(np.float32)).to(getattr(torch, dtype)) for a in (x, weight, bias)]
    torchs = torch.nn.functional.linear(*tensors).to(torch.float32).numpy()
    ours = run(x, weight, bias, True, session_options(isa)).astype(np.float64)
    errors = [np.abs(y - exact) for y in (ours, torchs)]
    assert errors[0].max() <= 2 * errors[1].max()
    assert errors[0].mean() <= 2 * errors[1].mean()
