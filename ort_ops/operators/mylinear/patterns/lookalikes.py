"""Recognize nodes that look like linear layers but are never adopted: fused, quantised, Einsum. No torch."""

from __future__ import annotations

import math

import onnx_ir as ir

from ort_ops.operators.mylinear.patterns.causes import Cause
from ort_ops.rewrite.graph.constants import is_standard, refers_to_function
from ort_ops.rewrite.graph.folding import resolve
from ort_ops.rewrite.graph.shapes import known_shape
from ort_ops.rewrite.reasons import Reason

_MICROSOFT = "com.microsoft"
_CAUSES = {
    **dict.fromkeys(
        (
            (_MICROSOFT, "FusedMatMul"),
            (_MICROSOFT, "FusedMatMulActivation"),
            (_MICROSOFT, "TransposeMatMul"),
            (_MICROSOFT, "FusedGemm"),
            (_MICROSOFT, "GemmFastGelu"),
            (_MICROSOFT, "SparseToDenseMatMul"),
        ),
        Cause.FUSED,
    ),
    **dict.fromkeys(
        (
            (_MICROSOFT, "Attention"),
            (_MICROSOFT, "PackedAttention"),
            (_MICROSOFT, "QAttention"),
            (_MICROSOFT, "DecoderAttention"),
            (_MICROSOFT, "LongformerAttention"),
        ),
        Cause.FUSED_ATTENTION,
    ),
    **dict.fromkeys(
        (
            ("", "MatMulInteger"),
            ("", "QLinearMatMul"),
            (_MICROSOFT, "MatMulInteger16"),
            (_MICROSOFT, "MatMulIntegerToFloat"),
            (_MICROSOFT, "DynamicQuantizeMatMul"),
            (_MICROSOFT, "QGemm"),
            (_MICROSOFT, "MatMulNBits"),
            (_MICROSOFT, "MatMulBnb4"),
            (_MICROSOFT, "MatMulFpQ4"),
            (_MICROSOFT, "GemmFloat8"),
        ),
        Cause.QUANTIZED,
    ),
    **dict.fromkeys((("ai.onnx.ml", "LinearRegressor"), ("ai.onnx.ml", "LinearClassifier")), Cause.CLASSICAL),
}
_FUSED_CONVOLUTIONS = ((_MICROSOFT, "FusedConv"), (_MICROSOFT, "NhwcFusedConv"), ("com.ms.internal.nhwc", "Conv"))
_QUANTIZED_CONVOLUTIONS = {"ConvInteger": 1, "QLinearConv": 3}
"""The index of their weight."""


def reason_to_leave(node: ir.Node) -> Reason | None:
    """Return why a node that looks like a linear layer is left alone; None if it does not look like one.

    `match` decides on MatMul and Gemm, if all their attributes are known.
    """
    if node.domain in ("", "ai.onnx") and node.op_type in ("MatMul", "Gemm", "Einsum") and refers_to_function(node):
        return Reason(Cause.ATTRIBUTE_OF_FUNCTION)
    cause = _CAUSES.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
    if cause is not None:
        return Reason(cause)
    if (is_standard(node, "Conv") or (node.domain, node.op_type) in _FUSED_CONVOLUTIONS) and _is_pointwise(node, 1):
        return Reason(Cause.POINTWISE_CONVOLUTION)
    if is_standard(node, *_QUANTIZED_CONVOLUTIONS) and _is_pointwise(node, _QUANTIZED_CONVOLUTIONS[node.op_type]):
        return Reason(Cause.QUANTIZED)
    if is_standard(node, "Einsum") and _has_weight(node):
        return Reason(Cause.EQUATION, {"equation": node.attributes.get_string("equation", "")})
    return None


def _is_pointwise(node: ir.Node, index: int) -> bool:
    """Whether a convolution has kernels of one element, one group and no stride: then it is a linear map."""
    weight = node.inputs[index] if len(node.inputs) > index else None
    shape = None if weight is None else known_shape(weight)
    if shape is None or len(shape) < 3 or any(size != 1 for size in shape[2:]):
        return False
    attributes = node.attributes
    steps = (*attributes.get_ints("strides", [1]), *attributes.get_ints("dilations", [1]))
    is_padded = any(attributes.get_ints("pads", [0])) or attributes.get_string("auto_pad", "NOTSET") in (
        "SAME_UPPER",
        "SAME_LOWER",
    )
    return attributes.get_int("group", 1) == 1 and math.prod(steps) == 1 and not is_padded


def _has_weight(node: ir.Node) -> bool:
    """Whether an Einsum has two operands, one of them a constant."""
    return len(node.inputs) == 2 and any(resolve(value) is not None for value in node.inputs)
