"""Translate the indices of a triangle in integers: torch's exporter makes them by way of square roots.

A root that is off by a rounding error may give another index. The comparison, which changes every value by as much as
rounding may, then reads outside a tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch


def index_translations() -> dict[Any, Callable[..., Any]]:
    """Return translations of `torch.triu_indices` and `torch.tril_indices`."""
    from onnxscript import opset18 as op

    def number(value: int) -> Any:
        constant: Any = ir.tensor(np.array(value, np.int64))
        return op.Constant(value=constant)

    def size(value: Any) -> Any:
        one: Any = op.Constant(value_ints=[1])
        return op.Reshape(number(value) if isinstance(value, int) else value, one)

    def indices(row: Any, col: Any, offset: int, dtype: int, upper: int) -> Any:
        one: Any = ir.tensor(np.ones(1, np.int64))
        ones: Any = op.ConstantOfShape(op.Concat(size(row), size(col), axis=0), value=one)
        triangle: Any = op.Trilu(ones, number(offset), upper=upper)
        found = op.NonZero(triangle)
        return found if dtype in (-1, ir.DataType.INT64) else op.Cast(found, to=dtype)

    # Without annotations: onnxscript reads them, and knows only those of its own kind.
    def triu_indices(row, col, offset=0, dtype=-1, layout="", device="", pin_memory=False):  # type: ignore[no-untyped-def]
        return indices(row, col, offset, dtype, 1)

    def tril_indices(row, col, offset=0, dtype=-1, layout="", device="", pin_memory=False):  # type: ignore[no-untyped-def]
        return indices(row, col, offset, dtype, 0)

    aten = torch.ops.aten
    return {aten.triu_indices.default: triu_indices, aten.tril_indices.default: tril_indices}
