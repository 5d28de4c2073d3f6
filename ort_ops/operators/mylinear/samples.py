"""Calls of MYLINEAR that are worth trying: usual ones, edges, zero sizes, with and without bias."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ElementType
from ort_ops.operators.mylinear.contract import MYLINEAR

SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((1, 2), 1),
    ((3, 64), 64),
    ((5,), 4),
    ((2, 3, 17), 33),
    ((0, 4), 3),
    ((3, 0), 2),
    ((2, 5), 0),
    ((1, 1000), 7),
)
"""(shape of X, out_features)"""


def draw_calls(generator: np.random.Generator, element_type: ElementType) -> Iterator[Call]:
    """Yield calls of one element type; the last three hold extreme numbers."""
    if element_type.name == "bfloat16":
        import ml_dtypes  # noqa: F401  # makes np.dtype know bfloat16
    dtype = np.dtype(element_type.name)
    for number, (shape, out_features) in enumerate(SHAPES):
        arrays = [generator.standard_normal(s) for s in (shape, (out_features, shape[-1]), (out_features,))]
        x, weight, bias = (array.astype(dtype) for array in arrays)
        yield make_call(MYLINEAR, [x, weight, bias if number % 2 else None], label=f"{list(shape)} x {out_features}")
    scales = (element_type.largest / 4, math.sqrt(element_type.smallest), element_type.smallest)
    for scale, label in zip(scales, ("sums that overflow", "products that underflow", "denormal numbers"), strict=True):
        with np.errstate(all="ignore"):
            x = (generator.uniform(-1, 1, (4, 8)) * scale).astype(dtype)
            weight = generator.uniform(-2, 2, (3, 8)).astype(dtype)
            weight = (weight * np.float64(scale)).astype(dtype) if "underflow" in label else weight
        yield make_call(MYLINEAR, [x, weight, np.zeros(3, dtype)], label=label)
