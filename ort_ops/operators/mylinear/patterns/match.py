"""Find the linear layers of a graph: MatMul, MatMul + Add and Gemm, through nodes in between. No torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ort_ops.operators.mylinear.patterns.causes import Cause
from ort_ops.operators.mylinear.patterns.layer import LinearLayer, as_bias
from ort_ops.operators.mylinear.patterns.left import match_from_left, turns
from ort_ops.rewrite.graph.constants import DTYPES, Computed, Constant, is_standard, perm_of, rank_of
from ort_ops.rewrite.graph.folding import origin_of, resolve
from ort_ops.rewrite.graph.scaling import scales_exactly
from ort_ops.rewrite.graph.shapes import known_dtype, known_shape
from ort_ops.rewrite.reasons import NoMatch, OriginKind


def match(node: ir.Node) -> LinearLayer:
    """Return the linear layer that the MatMul or Gemm is. Raises: NoMatch with the reason if it is none."""
    if len(node.inputs) < 2 or None in node.inputs[:2]:
        raise NoMatch(Cause.MISSING_INPUT)
    layer = _match_gemm(node) if node.op_type == "Gemm" else _match_matmul(node)
    dtype = layer.weight.dtype
    if dtype not in DTYPES:
        raise NoMatch(Cause.DTYPE, dtype=dtype.name.lower())
    if layer.bias is not None and layer.bias.dtype != dtype:
        raise NoMatch(Cause.DTYPES_OF_WEIGHT_AND_BIAS)
    if known_dtype(layer.x) not in (None, dtype):
        raise NoMatch(Cause.DTYPES_OF_X_AND_WEIGHT)
    shape = known_shape(layer.x)
    if shape is not None:
        if len(shape) == 0:
            raise NoMatch(Cause.SCALAR_X)
        last, in_features = shape[-1], layer.weight.shape[1]
        if isinstance(last, int) and in_features is not None and last != in_features:
            raise NoMatch(Cause.FEATURES, got=last, wanted=in_features)
    return layer


def _match_gemm(node: ir.Node) -> LinearLayer:
    x, weight_value, bias_value = (*node.inputs, None, None)[:3]
    assert x is not None
    assert weight_value is not None
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    if node.attributes.get_int("transA", 0):
        producer = x.producer()
        if producer is None or not is_standard(producer, "Transpose") or perm_of(producer, 2) != (1, 0):
            raise NoMatch(Cause.TRANSPOSED_INPUT)
        (x,) = producer.inputs
        assert x is not None
    is_transposed = bool(node.attributes.get_int("transB", 0))
    weight: Constant | Computed
    factor = resolve(weight_value)
    if factor is None:
        weight = _computed_weight(weight_value, x, is_transposed)
    else:
        if len(factor.shape) != 2:
            raise NoMatch(Cause.WEIGHT_RANK, rank=len(factor.shape))
        weight = factor if is_transposed else factor.then("transpose", np.transpose)
    if alpha == 0:
        raise NoMatch(Cause.ZERO_SCALE)
    bias = None if bias_value is None else _gemm_bias(bias_value, beta, weight)
    for name, scalar, argument in (("alpha", alpha, weight), ("beta", beta, bias)):
        if argument is not None and argument.dtype in DTYPES and not scales_exactly(argument, scalar):
            what = "constant" if isinstance(argument, Constant) else "computed value"
            raise NoMatch(Cause.ROUNDED_SCALE, name=name, value=scalar, what=what)
    return _with_known_width(LinearLayer(node, x, weight, bias, factor, is_transposed, alpha=alpha, beta=beta))


def _gemm_bias(value: ir.Value, beta: float, weight: Constant | Computed) -> Constant | Computed | None:
    bias, out_features = resolve(value), weight.shape[0]
    if bias is None:
        shape = known_shape(value)
        if shape is not None and len(shape) == 1 and isinstance(shape[0], int) and shape[0] == out_features and beta:
            return Computed(value, (shape[0],), known_dtype(value) or weight.dtype)
        raise NoMatch(Cause.C_NOT_CONSTANT, origin_of(value))
    if beta == 0:
        if np.isfinite(bias.array().astype(np.float64)).all():
            return None
        raise NoMatch(Cause.C_NOT_FINITE)
    if out_features is None and len(bias.shape) and bias.shape[-1] > 1:
        out_features = bias.shape[-1]  # C may not widen the product of a Gemm
    if out_features is None:
        raise NoMatch(Cause.WEIGHT_WIDTH_UNKNOWN)
    widened = as_bias(bias, out_features, 2)
    if widened is None:
        raise NoMatch(Cause.C_NOT_A_BIAS)
    return widened


def _match_matmul(node: ir.Node) -> LinearLayer:
    x, weight_value = node.inputs
    assert x is not None
    assert weight_value is not None
    factor = resolve(weight_value)
    if factor is None:
        if resolve(x) is not None:
            return match_from_left(node)
        producer = weight_value.producer()
        if producer is None or not is_standard(producer, "Transpose") or not turns(producer, 2):
            raise _no_constant(weight_value)
        (turned,) = producer.inputs
        assert turned is not None
        layer = LinearLayer(node, x, _computed_weight(turned, x, is_transposed=True), is_transposed=True)
        return _with_known_width(_with_add(layer))
    rank, x_rank = len(factor.shape), rank_of(x)
    if rank < 2:
        raise NoMatch(Cause.WEIGHT_RANK, rank=rank)
    weight = factor
    if rank > 2:
        if any(size != 1 for size in factor.shape[:-2]):
            raise NoMatch(Cause.PRODUCT_OF_BATCHES, rank=rank)
        if x_rank is None or x_rank < rank:
            raise NoMatch(Cause.RANK_BELOW_WEIGHT, rank=rank)
        weight = weight.then("squeeze", lambda array: array.reshape(array.shape[-2:]))
    return _with_add(LinearLayer(node, x, weight.then("transpose", np.transpose), factor=factor))


def _no_constant(value: ir.Value) -> NoMatch:
    origin = origin_of(value)
    is_quantized = origin.kind is OriginKind.COMPUTED and origin.op_type == "DequantizeLinear"
    return NoMatch(Cause.WEIGHT_QUANTIZED if is_quantized else Cause.WEIGHT_NOT_CONSTANT, origin)


def _computed_weight(value: ir.Value, x: ir.Value, is_transposed: bool) -> Computed:
    """Return a weight that is known only at run time, if it has MYLINEAR's layout: it is not transposed there."""
    if not is_transposed:
        raise _no_constant(value)
    dtype = known_dtype(value) or known_dtype(x)
    if dtype is None:
        raise NoMatch(Cause.WEIGHT_DTYPE_UNKNOWN, origin_of(value))
    shape = known_shape(value)
    sizes = [None, None] if shape is None else [s if isinstance(s, int) else None for s in shape]
    if len(sizes) != 2:
        raise NoMatch(Cause.WEIGHT_RANK, rank=len(sizes))
    return Computed(value, tuple(sizes), dtype)


def _with_known_width(layer: LinearLayer) -> LinearLayer:
    """Return the layer, if it has a bias or one can be made: a definition inside a model takes three inputs."""
    if layer.bias is None and layer.weight.shape[0] is None:
        raise NoMatch(Cause.WEIGHT_WIDTH_UNKNOWN_WITHOUT_BIAS)
    return layer


def _with_add(layer: LinearLayer) -> LinearLayer:
    """Include the Add after a MatMul if it adds a bias; otherwise return the layer unchanged."""
    value, passages = layer.node.outputs[0], []
    rank, out_features = rank_of(layer.x), layer.weight.shape[0]
    if out_features is None:
        return layer
    while True:
        uses = value.uses()
        if value.is_graph_output() or len(uses) != 1:
            return layer
        ((consumer, index),) = uses
        if consumer.graph is not value.producer().graph:  # type: ignore[union-attr]
            return layer
        if is_standard(consumer, "Add"):
            break
        if index != 0 or not _keeps_features(consumer, rank, out_features):
            return layer
        if consumer.op_type == "Reshape":
            target = resolve(consumer.inputs[1])
            rank = rank_of(consumer.outputs[0]) if target is None else target.shape[0]
        passages.append(consumer)
        value = consumer.outputs[0]
    other = consumer.inputs[1 - index]
    bias = None if other is None else resolve(other)
    bias = None if bias is None else as_bias(bias, out_features, rank)
    if bias is None:
        return layer
    return replace(layer, bias=bias, passages=tuple(passages), add=consumer)


def _keeps_features(node: ir.Node, rank: int | None, out_features: int) -> bool:
    """Whether the node keeps the last dimension, so that a bias may be added before it."""
    if is_standard(node, "Identity"):
        return True
    if is_standard(node, "Transpose") and rank is not None:
        return perm_of(node, rank)[-1] == rank - 1
    if is_standard(node, "Reshape"):
        target = resolve(node.inputs[1])
        if target is not None:
            sizes = target.array().reshape(-1) if target.dtype == ir.DataType.INT64 else np.zeros(0)
            return sizes.size > 0 and int(sizes[-1]) == out_features > 0
        shape = known_shape(node.outputs[0])
        return shape is not None and len(shape) > 0 and shape[-1] == out_features > 0
    return False
