"""A linear layer in a graph, and the standard operators that it may consist of. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx_ir as ir

from ort_ops.rewrite.graph.constants import Array, Computed, Constant

FORM_KEY = "mylinear.adopted_from"
"""Entry of a node's metadata_props: what it was before `adopt`, so that `lower` gives the same number of nodes."""


class Form(Enum):
    """The standard operators that a linear layer was, or becomes. The value stands in models, too."""

    MATMUL = "MatMul"
    MATMUL_ADD = "MatMul+Add"
    GEMM = "Gemm"
    GEMM_C = "Gemm+C"

    @property
    def is_gemm(self) -> bool:
        return self in (Form.GEMM, Form.GEMM_C)

    @property
    def has_bias(self) -> bool:
        return self in (Form.MATMUL_ADD, Form.GEMM_C)


@dataclass(frozen=True)
class LinearLayer:
    """One linear layer in a graph.

    Attributes:
        node: the MatMul or Gemm.
        x: the input that becomes MYLINEAR's X.
        weight: ``[out_features, in_features]``.
        bias: ``[out_features]``; None for none.
        factor: the constant weight as the node takes it; None for a computed weight.
        is_transposed: whether the factor is ``[out_features, in_features]`` too.
        passages: Identity, Reshape and Transpose between the MatMul and the Add; they stay, after MYLINEAR.
        add: the Add that the bias came from, or None.
        turn: the Transpose that gives the result of a product from the left its usual order, or None; it goes.
        alpha: of the weight, beta: of the bias; both such that no number is rounded.
    """

    node: ir.Node
    x: ir.Value
    weight: Constant | Computed
    bias: Constant | Computed | None = None
    factor: Constant | None = None
    is_transposed: bool = False
    passages: tuple[ir.Node, ...] = ()
    add: ir.Node | None = None
    turn: ir.Node | None = None
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def form(self) -> Form:
        """The form that `lower` gives it again."""
        if self.node.op_type == "Gemm":
            return Form.GEMM if self.bias is None else Form.GEMM_C
        return Form.MATMUL if self.add is None else Form.MATMUL_ADD


def as_bias(constant: Constant, out_features: int, rank: int | None) -> Constant | None:
    """Return the constant as ``[out_features]``, if it can be the bias of a result of that rank; otherwise None."""
    shape = constant.shape
    if len(shape) > max(1 if rank is None else rank, 1) or any(size != 1 for size in shape[:-1]):
        return None
    if shape and shape[-1] not in (1, out_features):
        return None
    if shape == (out_features,):
        return constant

    def widen(array: Array) -> Array:
        return np.broadcast_to(array.reshape(-1), (out_features,))

    return constant.then(f"bias of {out_features}", widen)
