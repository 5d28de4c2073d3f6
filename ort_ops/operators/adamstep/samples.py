"""Calls of ADAMSTEP that are worth trying: usual ones, edges, zero sizes, extreme numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ort_ops.opdef.call import Call, make_call
from ort_ops.opdef.element_types import ElementType
from ort_ops.operators.adamstep.contract import ADAMSTEP

SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (2, 0, 3), (3, 5), (255,), (256,), (257,), (2, 3, 4), (20001,))


def draw_calls(generator: np.random.Generator, element_type: ElementType) -> Iterator[Call]:
    """Yield calls of one element type: of all shapes and settings, then of extreme numbers."""
    settings = [(1, 1e-3, 0.9, 0.999, 1e-8, 0.01), (7, 0.1, 0.95, 0.98, 1e-6, 0.0), (100_000, 1e-5, 0.6, 0.9, 0.0, 2.0)]
    settings += [(2, 0.0, 0.9, 0.999, 1e-8, 0.01), (2**40, 1.0, 0.999, 0.9999, 1e-3, 0.5)]
    for index, shape in enumerate(SHAPES):
        yield _draw(generator, element_type, shape, settings[index % len(settings)])
    for scalars in settings:
        yield _draw(generator, element_type, (40,), scalars)
    first = settings[0]
    zeros = [np.zeros((3,), element_type.name)] * 4
    yield _call(zeros, first, "zeros")
    for size, label in (
        (math.sqrt(element_type.largest) * 2, "squares that overflow"),
        (element_type.largest, "sums that overflow"),
        (math.sqrt(element_type.smallest) / 2, "squares that underflow"),
        (element_type.smallest * 4, "denormal numbers"),
    ):
        yield _draw(generator, element_type, (40,), first, size, label)
    call = _draw(generator, element_type, (4, 12), first)
    arrays = [np.array(array) for array in call.arrays[:4]]
    for row, array in enumerate(arrays):
        array[row, 0], array[row, 1] = np.nan, np.inf
        if row < 3:  # V is not negative
            array[row, 2] = -np.inf
    yield _call(arrays, first, "NaN and infinities")


def _draw(
    generator: np.random.Generator,
    element_type: ElementType,
    shape: tuple[int, ...],
    scalars: tuple[float, ...],
    size: float = 1.0,
    label: str = "",
) -> Call:
    p, g, m, v = (generator.uniform(-1, 1, shape) * size for _ in range(4))
    arrays = [np.asarray(array, element_type.name) for array in (p, g, m, abs(v))]
    return _call(arrays, scalars, label or f"{list(shape)}, step {scalars[0]}")


def _call(arrays: list[np.ndarray], scalars: tuple[float, ...], label: str) -> Call:
    step, *others = scalars
    given = [np.array(step, np.int64), *(np.array(value, np.float64) for value in others)]
    return make_call(ADAMSTEP, [*arrays, *given], label=label)
