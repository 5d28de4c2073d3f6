"""What `mylinear bench` needs of an operator that is a product of matrices; imports no torch, which it can lack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from ort_ops.numerics.bound import Arithmetic
from ort_ops.opdef.operator import Operator

Array = NDArray[Any]
Layer = tuple[Array, Array]
"""``weight [N, K]`` and ``bias [N]``."""


@dataclass(frozen=True)
class BenchKit:
    """A product ``x [M, K]``, ``weight [N, K]``, ``bias [N]`` to ``y [M, N]``, and its peers.

    Attributes:
        operator: the description; its inputs are x, weight and bias.
        exact: (x, layers, arithmetic) -> the exact result of the layers one after the other in float64, and how far a
            right kernel may be from it, where each layer rounds its result to the element type.
        fused: (names of the inputs, name of the output) -> one node of ONNX's own that computes the same.
        unfused: (weight, bias) -> nodes of ONNX's own from ``x`` to ``y``, and their tensors, without a fused node.
        torch_function: () -> torch's own function of x, weight and bias.
    """

    operator: Operator
    exact: Callable[[Array, Sequence[Layer], Arithmetic], tuple[NDArray[np.float64], NDArray[np.float64]]]
    fused: Callable[[Sequence[str], str], NodeProto]
    unfused: Callable[[Array, Array], tuple[list[NodeProto], list[TensorProto]]]
    torch_function: Callable[[], Callable[..., Any]]
