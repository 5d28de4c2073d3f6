"""Calls of version 2 that are worth trying: all activations, with and without bias, usual numbers and edges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ElementType
from ort_ops.operators.mylinear.samples import SHAPES
from ort_ops.operators.mylinear.version_2.contract import ACTIVATIONS, MYLINEAR_2

Array = NDArray[Any]

EDGES = (0.0, 1e-3, 0.75, 3.5, 6.0, 9.5, 17.0, 30.0, 88.0, math.inf)
"""Sums, of either sign, where the activations bend, saturate and cancel."""
_FOR_EMPTY = ("relu", "none", "sigmoid")


def draw_calls(generator: np.random.Generator, types: Mapping[str, ElementType]) -> Iterator[Call]:
    """Yield calls of one combination of element types; the last ones hold extreme numbers."""
    if any(found.name == "bfloat16" for found in types.values()):
        import ml_dtypes  # noqa: F401  # makes np.dtype know bfloat16
    real, narrow = types["T"], types["TW"]
    for_usual, for_empty = cycle(ACTIVATIONS[2:]), cycle(_FOR_EMPTY)
    for number, (shape, out_features) in enumerate(SHAPES):
        x = _cast(generator.standard_normal(shape) * 2, real)
        weight = _cast(generator.standard_normal((out_features, shape[-1])), narrow)
        bias = _cast(generator.standard_normal(out_features), real) if number % 2 else None
        name = next(for_usual if x.size and weight.size else for_empty)
        yield _call([x, weight, bias], name, f"{list(shape)} x {out_features}")
    sums = _sums(real)
    for name in ACTIVATIONS:
        weight = _cast(np.ones((1, 2)), narrow)
        yield _call([sums, weight, None], name, "numbers where an activation bends or ends")
    for name, label, scale in (
        ("gelu", "products that underflow", math.sqrt(max(real.smallest, narrow.smallest))),
        ("tanh", "denormal numbers", real.smallest),
    ):
        x = _cast(generator.uniform(-1, 1, (4, 8)) * scale, real)
        weight = _cast(generator.uniform(-2, 2, (3, 8)) * (scale if name == "gelu" else 1.0), narrow)
        yield _call([x, weight, _cast(np.zeros(3), real)], name, label)


def _sums(element_type: ElementType) -> Array:
    """Return pairs of numbers whose sums bend the activations, come to the ends of the type, or overflow."""
    largest, smallest = element_type.largest, element_type.smallest
    sizes = [(value, 0.0) for value in (*EDGES, largest, largest / 2, largest / 4, smallest, 3 * smallest)]
    pairs = [*sizes, (largest, largest), (largest, -largest), (math.nan, 0.0)]
    return _cast(np.array(pairs + [(-one, -other) for one, other in pairs]), element_type)


def _cast(array: Array, element_type: ElementType) -> Array:
    with np.errstate(all="ignore"):
        return array.astype(np.dtype(element_type.name))


def _call(arrays: list[Array | None], activation: str, label: str) -> Call:
    return make_call(MYLINEAR_2, arrays, {"activation": activation}, f"{label}, {activation}")
