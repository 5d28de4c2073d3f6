"""Calls of MYLINEARGRAD that are worth trying: usual ones, edges, zero sizes, extreme numbers, each set of outputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ElementType
from ort_ops.operators.mylineargrad.contract import MYLINEARGRAD

SHAPES: tuple[tuple[tuple[int, ...], int, int], ...] = (
    ((1,), 1, 2),
    ((3,), 64, 64),
    ((), 4, 5),
    ((2, 3), 33, 17),
    ((0,), 3, 4),
    ((2, 0, 3), 1, 2),
    ((3,), 2, 0),
    ((2,), 0, 5),
    ((0,), 0, 0),
    ((1,), 7, 1000),
    ((1000,), 3, 2),
    ((33,), 10, 128),
)
"""(leading dimensions, out_features, in_features)"""


def draw_calls(generator: np.random.Generator, element_type: ElementType) -> Iterator[Call]:
    """Yield calls of one element type: of all shapes, then of extreme numbers, then for each set of outputs."""
    if element_type.name == "bfloat16":
        import ml_dtypes  # noqa: F401  # makes np.dtype know bfloat16
    dtype = np.dtype(element_type.name)
    for leading, out_features, in_features in SHAPES:
        shapes = ((*leading, out_features), (*leading, in_features), (out_features, in_features))
        arrays = [generator.standard_normal(shape).astype(dtype) for shape in shapes]
        label = f"{list(leading)} rows of {out_features} and {in_features}"
        yield make_call(MYLINEARGRAD, arrays, label=label)
    yield from _extreme_calls(generator, element_type, dtype)
    for outputs in itertools.product((True, False), repeat=3):
        if any(outputs):
            arrays = [generator.standard_normal(shape).astype(dtype) for shape in ((2, 3, 4), (2, 3, 5), (4, 5))]
            call = make_call(MYLINEARGRAD, arrays)
            words = [o.name for o, is_wanted in zip(MYLINEARGRAD.outputs, outputs, strict=True) if is_wanted]
            yield replace(call, label=f"only {' and '.join(words)}", outputs=outputs)


def _extreme_calls(
    generator: np.random.Generator, element_type: ElementType, dtype: np.dtype[np.generic]
) -> Iterator[Call]:
    scales = (element_type.largest / 4, math.sqrt(element_type.smallest), element_type.smallest)
    for scale, label in zip(scales, ("sums that overflow", "products that underflow", "denormal numbers"), strict=True):
        with np.errstate(all="ignore"):
            grad = (generator.uniform(-1, 1, (4, 8)) * scale).astype(dtype)
            x, weight = (generator.uniform(-2, 2, shape).astype(dtype) for shape in ((4, 3), (8, 3)))
            if "underflow" in label:
                x, weight = ((array * np.float64(scale)).astype(dtype) for array in (x, weight))
        yield make_call(MYLINEARGRAD, [grad, x, weight], label=label)
    grad, x, weight = (generator.standard_normal(shape).astype(dtype) for shape in ((5, 4), (5, 3), (4, 3)))
    grad[0, 1], grad[1, 2], grad[2, 3], grad[3, 3] = np.nan, np.inf, -np.inf, np.inf
    x[4, 0], x[1, 1], weight[1, 2], weight[2, 0] = np.inf, 0, np.nan, 0
    yield make_call(MYLINEARGRAD, [grad, x, weight], label="NaN and infinities")
