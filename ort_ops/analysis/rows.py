"""Take a few rows of a call, where each row of an input is computed by itself, to stand for all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ort_ops.opdef.call import Call
from ort_ops.opdef.kit import OperatorKit

Array = NDArray[Any]
MAX_ROWS = 256
"""The number of rows to keep of a call."""


def rows_index(kit: OperatorKit) -> int | None:
    """Return the input whose rows are computed by themselves, or None."""
    names = [parameter.name for parameter in kit.operator.inputs]
    return names.index(kit.rows) if kit.rows else None


def with_input(call: Call, index: int, value: Any) -> Call:
    """Return the call with another value for one input."""
    return replace(call, inputs=(*call.inputs[:index], value, *call.inputs[index + 1 :]))


def as_rows(values: Array) -> Array:
    """Return a view of an array of any rank from 1 as a matrix of rows."""
    return values.reshape(math.prod(values.shape[:-1]), values.shape[-1])


def thinned(kit: OperatorKit, call: Call, most: int = MAX_ROWS) -> Call:
    """Return the call with at most so many rows, evenly spaced; unchanged if it has no more, or no such input."""
    index = rows_index(kit)
    values = None if index is None else call.array(index)
    if index is None or values is None or not values.size or values.size // values.shape[-1] <= most:
        return call
    rows = as_rows(values)
    return with_input(call, index, rows[np.linspace(0, len(rows) - 1, most).astype(int)])
