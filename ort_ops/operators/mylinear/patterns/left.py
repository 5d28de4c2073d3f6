"""Find linear layers whose weight is the left factor: ``(W x^T + B)^T``. No torch."""

from __future__ import annotations

import onnx_ir as ir

from ort_ops.operators.mylinear.patterns.causes import Cause
from ort_ops.operators.mylinear.patterns.layer import LinearLayer
from ort_ops.rewrite.graph.constants import is_standard, perm_of, rank_of
from ort_ops.rewrite.graph.folding import origin_of, resolve
from ort_ops.rewrite.reasons import NoMatch


def match_from_left(node: ir.Node) -> LinearLayer:
    """Match ``(W x^T + B)^T``, with the B ``[out_features, 1]`` or without one."""
    left, right = node.inputs
    assert left is not None
    assert right is not None
    weight, before = resolve(left), right.producer()
    assert weight is not None
    if len(weight.shape) != 2:
        raise NoMatch(Cause.LEFT_RANK, rank=len(weight.shape))
    if before is None or not is_standard(before, "Transpose") or before.inputs[0] is None:
        raise NoMatch(Cause.LEFT_NOT_TRANSPOSED, origin_of(right))
    x = before.inputs[0]
    rank = rank_of(x)
    if rank is None:
        rank = len(before.attributes.get_ints("perm", []))
    if rank < 2:
        raise NoMatch(Cause.LEFT_RANK_OF_X)
    if not turns(before, rank):
        raise _other_axes("before", before, rank)
    bias, add, consumer = None, None, _next_of_left(node)
    if is_standard(consumer, "Add"):
        other = consumer.inputs[1 if consumer.inputs[0] is node.outputs[0] else 0]
        bias, add = resolve(other), consumer
        if bias is None or not 2 <= len(bias.shape) <= rank or not bias.size == bias.shape[-2] == weight.shape[0]:
            raise NoMatch(Cause.LEFT_NOT_A_BIAS)
        bias = bias.then(f"bias of {bias.size}", lambda array: array.reshape(-1))
        consumer = _next_of_left(consumer)
    if not is_standard(consumer, "Transpose"):
        raise NoMatch(Cause.LEFT_NOT_TRANSPOSED_BACK, op_type=consumer.op_type)
    if not turns(consumer, rank):
        raise _other_axes("behind", consumer, rank)
    return LinearLayer(node, x, weight, bias, weight, is_transposed=True, add=add, turn=consumer)


def _other_axes(where: str, node: ir.Node, rank: int) -> NoMatch:
    return NoMatch(Cause.LEFT_OTHER_AXES, where=where, perm=str(list(perm_of(node, rank))))


def _next_of_left(node: ir.Node) -> ir.Node:
    """Return the one node that takes the node's result, in the same graph. Raises: NoMatch if others take it."""
    (value,) = node.outputs
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1 or uses[0].node.graph is not node.graph:
        raise NoMatch(Cause.LEFT_SEEN_BY_OTHERS)
    consumer: ir.Node = uses[0].node
    return consumer


def turns(node: ir.Node, rank: int) -> bool:
    """Whether a Transpose changes the last two of that many dimensions, and no other."""
    if "perm" not in node.attributes:
        return rank == 2 and rank_of(node.inputs[0]) == 2
    return perm_of(node, rank) == (*range(rank - 2), rank - 1, rank - 2)
