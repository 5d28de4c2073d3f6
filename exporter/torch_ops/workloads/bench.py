"""What `mylinear bench` needs of an operator that is a product of matrices; imports no torch, which it can lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from ort_ops.numerics.bound import Arithmetic
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.operator import Operator

Array = NDArray[Any]
Layer = tuple[Array, Array]
"""``weight [N, K]`` and ``bias [N]``; the weight may be narrower than the bias, whose element type x has."""
ExactAndBound = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class BenchActivation:
    """What a sum passes through, as others have it.

    Attributes:
        nodes: (name of the sum, name of the result) -> ONNX's own nodes.
        torch_function: () -> torch's own function of the sum.
        fused: the node that onnxruntime makes of this and `BenchKit.fused` in float32; empty for none.
        is_on_grid: whether it is measured by default.
        nodes_error: (exact sum, how far it may be off, element type) -> how much further than a right kernel of the
            operator a runtime may be that computes ``nodes``, each rightly; None for no further.
    """

    nodes: Callable[[str, str], list[NodeProto]]
    torch_function: Callable[[], Callable[[Any], Any]]
    fused: str = ""
    is_on_grid: bool = True
    nodes_error: Callable[[Array, Array, ElementType], Array] | None = None


@dataclass(frozen=True)
class BenchKit:
    """A product ``x [M, K]``, ``weight [N, K]``, ``bias [N]`` to ``y [M, N]``, and its peers.

    Attributes:
        operator: the description; its inputs are x, weight and bias.
        exact: (x, layers, arithmetic) -> the exact result of the layers one after the other in float64, and how far a
            right kernel may be from it, where each layer rounds its result to the element type.
        fused: (names of the inputs, name of the output) -> one node of ONNX's own that computes the same.
        unfused: (weight, bias, output) -> nodes of ONNX's own from ``x`` to the output, without a fused node, and their
            tensors; names between begin with that of the output.
        torch_function: () -> torch's own function of x, weight and bias.
        newer: the version of the operator with an attribute ``activation``, and with weights narrower than x; None for
            none.
        newer_exact: (x, layer, activation, arithmetic) -> what ``exact`` returns, of one layer of that version.
        activations: what that attribute may name beside ``none``.
        narrow_weights: the dtypes that a weight may have under float32.
    """

    operator: Operator
    exact: Callable[[Array, Sequence[Layer], Arithmetic], ExactAndBound]
    fused: Callable[[Sequence[str], str], NodeProto]
    unfused: Callable[[Array, Array, str], tuple[list[NodeProto], list[TensorProto]]]
    torch_function: Callable[[], Callable[..., Any]]
    newer: Operator | None = None
    newer_exact: Callable[[Array, Layer, str, Arithmetic], ExactAndBound] | None = None
    activations: Mapping[str, BenchActivation] = field(default_factory=dict)
    narrow_weights: tuple[str, ...] = ()
