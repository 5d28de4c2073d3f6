"""What the proof runs a model, and a node of it, on: seeded numbers, and edge values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ort_ops.contract import ELEMENT_TYPES, MYLINEAR
from ort_ops.evaluate import LinearCall

Array = NDArray[Any]
MAX_ROWS, MAX_ROWS_BACKWARD = 256, 64
"""Of x at a node alone."""


def thinned(call: LinearCall, most: int = MAX_ROWS) -> LinearCall:
    """Return the call with at most so many rows of x, evenly spaced: each row is a sum of its own."""
    rows = call.x.reshape(-1, call.x.shape[-1]) if call.x.size else call.x
    if not call.x.size or len(rows) <= most:
        return call
    return replace(call, x=rows[np.linspace(0, len(rows) - 1, most).astype(int)])


def _inputs_of(model: onnx.ModelProto) -> list[tuple[str, list[int | str], np.dtype[Any]]]:
    """Name, shape and dtype of every input that must be fed."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in initializers:
            continue
        tensor = value.type.tensor_type
        dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        found.append((value.name, dims, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))))
    return found


def default_batch_sizes(model: onnx.ModelProto) -> tuple[int, ...]:
    """A transformer on 64 sequences of 64 takes minutes, most of them in other operators than ours."""
    num_dynamic = max((sum(isinstance(dim, str) for dim in dims) for _, dims, _ in _inputs_of(model)), default=0)
    return (1, 2, 7, 32) if num_dynamic > 1 else (1, 2, 7, 64)


def random_inputs(model: onnx.ModelProto, size: int, rng: np.random.Generator) -> dict[str, Array]:
    """Draw every input: normal numbers, and 0 and 1 for integers; ``size`` for each dynamic dimension."""
    feed = {}
    for name, dims, dtype in _inputs_of(model):
        shape = [size if isinstance(dim, str) else dim for dim in dims]
        if _is_floating(dtype):
            feed[name] = rng.standard_normal(shape).astype(dtype)
        else:  # such as token numbers and masks
            feed[name] = rng.integers(0, 2, shape).astype(dtype)
    return feed


def _is_floating(dtype: np.dtype[Any]) -> bool:
    return dtype.name in {element_type.name for element_type in ELEMENT_TYPES}


def edge_call(call: LinearCall) -> LinearCall:
    """Return the call with edge values for x, where none come to it through the model."""
    element_type = call.element_type
    tiny, large = element_type.smallest, element_type.largest**0.25
    patterns = [[0.0], [-0.0], [tiny, -tiny], [large, -large], [np.inf, 1.0], [np.inf, -np.inf], [np.nan, 1.0]]
    x = np.array([np.resize(pattern, call.x.shape[-1]) for pattern in patterns])
    return replace(call, x=x)


def edge_inputs(model: onnx.ModelProto) -> dict[str, Array]:
    """Zeros of both signs, the smallest and large numbers, near cancellation, infinities and NaN, row by row."""
    feed = {}
    for name, dims, dtype in _inputs_of(model):
        if not _is_floating(dtype):
            feed[name] = np.zeros([9 if isinstance(dim, str) else dim for dim in dims], dtype)
            continue
        element_type = MYLINEAR.element_type(dtype.name)
        tiny, large = element_type.smallest, element_type.largest**0.25
        patterns = [[0.0], [-0.0], [tiny, -tiny], [large, -large], [1.0, -1.0, 1.0 + 2 * element_type.unit_roundoff]]
        patterns += [[np.inf, 1.0], [-np.inf, 1.0], [np.inf, -np.inf], [np.nan, 1.0]]
        shape = [len(patterns) if isinstance(dim, str) else dim for dim in dims]
        flat = np.zeros(shape).reshape(shape[0] if len(shape) > 1 else 1, -1)
        for row, values in zip(flat, patterns * (len(flat) // len(patterns) + 1), strict=False):
            row[:] = np.resize(values, row.shape)
        feed[name] = flat.reshape(shape).astype(dtype)
    return feed
