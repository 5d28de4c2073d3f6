"""Convolutions and averages over windows in float64, for which onnxruntime has no kernel: gathered, and multiplied.

Where tap k of a window meets the input is a table of integers, one for each dimension: a place, or the zero that is
appended for what lies outside. Transposed convolutions differ in the table alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import opset18 as op

Table = NDArray[np.int64]


def convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """Return the convolution in operators that have float64; None where a size of a window or an image is not fixed."""
    rank = len(x.shape) - 2
    sizes, kernel = list(x.shape[2:]), list(weight.shape[2:])
    heads = [weight.shape[0], weight.shape[1]]
    channels = heads[1] if transposed else heads[0]
    if not all(isinstance(size, int) for size in (*sizes, *kernel, channels)):
        return None
    channels *= groups if transposed else 1
    each = [_each(values, rank) for values in (stride, padding, dilation, output_padding)]
    if transposed:
        tables = [_transposed_table(s, k, *options) for s, k, *options in zip(sizes, kernel, *each, strict=True)]
        # [in, out / groups, taps] -> [groups, out / groups, in / groups * taps]
        weight = op.Reshape(weight, _integers([groups, -1, channels // groups, math.prod(kernel)]))
        weight = op.Reshape(op.Transpose(weight, perm=[0, 2, 1, 3]), _integers([groups, channels // groups, -1]))
    else:
        tables = [_table(s, k, *options) for s, k, *options in zip(sizes, kernel, *each[:3], strict=True)]
        weight = op.Reshape(weight, _integers([groups, channels // groups, -1]))
    windows = [table.shape[1] for table in tables]
    columns = op.Reshape(_gathered(x, sizes, tables), _integers([0, groups, -1, math.prod(windows)]))
    result = op.Reshape(op.MatMul(weight, columns), _integers([0, channels, *windows]))
    return result if bias is None else op.Add(result, op.Reshape(bias, _integers([channels, *[1] * rank])))


def average_pool(
    x: Any,
    rank: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Any:
    """Return the averages over windows of the last dimensions; None where a size is not fixed."""
    sizes = list(x.shape[-rank:])
    if not all(isinstance(size, int) for size in sizes):
        return None
    kernel = _each(kernel, rank)
    stride, padding = _each(stride, rank) if stride else kernel, _each(padding, rank)
    tables, counts = [], np.ones((), np.float64)
    for size, k, step, pad in zip(sizes, kernel, stride, padding, strict=True):
        count = (size + 2 * pad - k + (step - 1 if ceil_mode else 0)) // step + 1
        if ceil_mode and (count - 1) * step >= size + pad:
            count -= 1
        places = np.arange(count) * step - pad + np.arange(k)[:, None]
        tables.append(_inside(places, size))
        end = size + pad if count_include_pad else size
        inside = (places < end) & (places >= (-pad if count_include_pad else 0))
        counts = counts[..., None] * inside.sum(0)
    taps = range(-2 * rank, -rank)
    total = op.ReduceSum(_gathered(x, sizes, tables), _integers(taps), keepdims=0)
    return op.Div(total, _float64(counts if divisor is None else np.array(divisor)))


def _each(values: Sequence[int], rank: int) -> list[int]:
    return list(values) * rank if len(values) == 1 else list(values)


def _table(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Table:
    """Return ``[taps, windows]``: the place in the input, or ``size`` for the zero outside."""
    count = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return _inside(np.arange(count) * stride - padding + dilation * np.arange(kernel)[:, None], size)


def _transposed_table(size: int, kernel: int, stride: int, padding: int, dilation: int, more: int) -> Table:
    count = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + more + 1
    steps = np.arange(count) + padding - dilation * np.arange(kernel)[:, None]
    return np.where(steps % stride == 0, _inside(steps // stride, size), size)


def _inside(places: NDArray[Any], size: int) -> Table:
    found: Table = np.where((places >= 0) & (places < size), places, size).astype(np.int64)
    return found


def _gathered(x: Any, sizes: Sequence[int], tables: Sequence[Table]) -> Any:
    """Return ``[..., taps of each dimension, windows of each dimension]``."""
    rank = len(sizes)
    lead = len(x.shape) - rank
    outside = [int((table == size).any()) for table, size in zip(tables, sizes, strict=True)]
    if any(outside):
        pads = [0] * (len(x.shape) + lead) + outside
        x = op.Pad(x, _integers(pads), _float64(np.zeros(())))
    for i, table in enumerate(tables):
        constant: Any = ir.tensor(table)
        places: Any = op.Constant(value=constant)
        x = op.Gather(x, places, axis=lead + 2 * i)
    taps, windows = (range(lead + first, lead + 2 * rank, 2) for first in (0, 1))
    return op.Transpose(x, perm=[*range(lead), *taps, *windows])


def _integers(values: Sequence[int]) -> Any:
    constant: Any = ir.tensor(np.array(list(values), np.int64))
    return op.Constant(value=constant)


def _float64(values: NDArray[Any]) -> Any:
    constant: Any = ir.tensor(np.asarray(values, np.float64))
    return op.Constant(value=constant)
