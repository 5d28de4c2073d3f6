"""Models of one MYLINEAR node, for the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from ort_ops.models.make import make_model
from ort_ops.operators.mylinear.contract import MYLINEAR


def make_linear_model(
    x_shape: Sequence[int | str], weight: NDArray[Any], bias: NDArray[Any] | None, *, with_function: bool = True
) -> onnx.ModelProto:
    """Make a model of one MYLINEAR node, ``x`` to ``y``, with the weights inside."""
    return make_model(MYLINEAR, [x_shape, weight, bias], name="linear", with_function=with_function)
