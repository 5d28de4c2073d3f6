"""Check that a rewritten layer means what it meant, by the definitions of its operators in float64. No torch.

One weight of a large model is read at a time. `ort_ops.rewrite.proof.whole` compares models as a whole.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ort_ops.numerics.bound import gamma
from ort_ops.numerics.compare import Verdict, compare
from ort_ops.operators.mylinear.contract import MYLINEAR
from ort_ops.operators.mylinear.patterns.layer import LinearLayer
from ort_ops.rewrite.graph.constants import Array, Computed, Constant
from ort_ops.rewrite.graph.folding import resolve
from ort_ops.rewrite.reasons import RewriteError

_CHUNK = 2**22  # numbers that are widened to float64 at a time


def check_layer(layer: LinearLayer, weight: ir.Value, bias: ir.Value, name: str) -> bool:
    """Compare MYLINEAR with its new weight and bias with the layer that it replaces, on random x in float64.

    A computed weight is the same value before and after; then only the bias is compared.

    Returns: whether every output feature was compared. Raises: RewriteError naming the layer's output.
    """
    if layer.factor is not None:
        assert weight.const_value is not None
        new_weight, old = weight.const_value.numpy(), layer.factor.array()
        old = old.T if layer.is_transposed else old
        old = old.reshape(old.shape[-2:])
    else:
        out_features = 1 if bias.const_value is None else bias.const_value.size
        new_weight = np.random.default_rng(1).standard_normal((out_features, 2))
        old = new_weight.T
    old_bias = new_bias = np.zeros(1)
    if not isinstance(layer.bias, Computed):
        assert bias.const_value is not None
        new_bias = bias.const_value.numpy()
    if isinstance(layer.bias, Constant):
        old_bias = layer.beta * layer.bias.array().astype(np.float64)
    return _compare_sums(old, old_bias, layer.alpha, new_weight, new_bias, name)


def check_lowered(
    product: ir.Node, added: ir.Value | None, weight: Constant | None, bias: Constant | None, name: str
) -> bool:
    """Compare the lowered form of a MYLINEAR node with the weight and bias that it had, in the same way.

    Args:
        product: the Gemm or MatMul that replaces it.
        added: the bias of that, or of the Add after it.
        weight, bias: of the node; None for a computed one, or for no bias.

    Returns: whether every output feature was compared; computed ones are compared with the whole model only.
    """
    factor, new_bias = product.inputs[1], resolve(added)
    if weight is None or factor is None or factor.const_value is None or (added is not None and new_bias is None):
        return False
    new = factor.const_value.numpy()
    old_numbers, new_numbers = (np.zeros(1) if b is None else b.array() for b in (bias, new_bias))
    new = new if product.op_type == "Gemm" else new.T
    return _compare_sums(weight.array().T, old_numbers.astype(np.float64), 1.0, new, new_numbers, name)


def _compare_sums(old: Array, old_bias: Array, alpha: float, new_weight: Array, new_bias: Array, name: str) -> bool:
    """Compare ``alpha x old + old_bias`` with ``x new_weight^T + new_bias``, some features at a time."""
    in_features, out_features = old.shape
    if new_weight.shape != (out_features, in_features):
        raise RewriteError(f"the weight of '{name}' would be {list(new_weight.shape)}")
    x = np.random.default_rng(0).standard_normal((3, in_features))
    old_bias, new_bias = (np.broadcast_to(b.astype(np.float64), (out_features,)) for b in (old_bias, new_bias))
    is_proved = True
    rows = max(1, _CHUNK // max(1, in_features))
    with np.errstate(all="ignore"):
        for start in range(0, out_features, rows):
            part = slice(start, start + rows)
            widened = old[:, part].astype(np.float64)
            expected = alpha * (x @ widened) + old_bias[part]
            got = x @ new_weight[part].T.astype(np.float64) + new_bias[part]
            magnitude = np.abs(x) @ np.abs(widened) * abs(alpha) + np.abs(expected)
            allowed = 2 * gamma(in_features + 2, 2.0**-53) * magnitude
            is_finite = np.isfinite(widened).all(axis=0) & np.isfinite(old_bias[part])
            overflows = is_finite & ~np.isfinite(magnitude)  # in these sums of numbers near the largest
            comparison = compare(got, expected, allowed, MYLINEAR.element_type("float64"), overflows)
            if not comparison.is_within_bound:
                raise RewriteError(f"the output of '{name}' would change: {comparison.complaint}")
            is_proved &= comparison.verdict is Verdict.OK
    return is_proved
