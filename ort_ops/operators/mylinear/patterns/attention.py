"""Recognize the products that onnxruntime fuses into an attention of its own when it loads a model. No torch.

Its fusion takes the three projections of a normalized x, with heads split off by a Reshape to ``[0, 0, heads, size]``,
and a mask before the Softmax, in models up to opset 12 (seen from onnxruntime 1.17 to 1.32; from opset 13 on it takes
none). It looks for MatMul and Add, so MYLINEAR in their place would prevent it.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ort_ops.rewrite.graph.constants import is_standard, perm_of
from ort_ops.rewrite.graph.folding import resolve

_HEADS = ((0, 2, 1, 3), (0, 2, 3, 1))
"""What the Transpose behind the Reshape does; the other one is of the keys."""
_LAST_OPSET = 12
_MAX_STEPS = 6
"""From the product of queries and keys to the Softmax: a scale, a mask, and what a mask may need."""


def is_projection(node: ir.Node) -> bool:
    """Whether the MatMul is one of three that onnxruntime's attention would take in."""
    x = node.inputs[0] if is_standard(node, "MatMul") and node.inputs else None
    source = None if x is None else x.producer()
    if node.graph is None or node.graph.opset_imports.get("", 0) > _LAST_OPSET:
        return False
    if x is None or source is None or source.op_type != "LayerNormalization" or _heads_of(node) is None:
        return False
    users = dict.fromkeys(use.node for use in x.uses() if is_standard(use.node, "MatMul"))
    heads = [value for user in users if (value := _heads_of(user)) is not None]
    if len(heads) < 3:
        return False
    products = {user for value in heads for user in _users(value) if is_standard(user, "MatMul")}
    return any(_is_attention(product, heads) for product in products)


def _is_attention(product: ir.Node, heads: list[ir.Value]) -> bool:
    """Whether a product of queries and keys is masked, goes through a Softmax, and is multiplied by values."""
    if sum(any(value is _unscaled(taken) for value in heads) for taken in product.inputs) != 2:
        return False
    node, is_masked, is_softmax = product, False, False
    for _ in range(_MAX_STEPS):
        users = [user for user in _users(node.outputs[0]) if user.op_type != "Shape"]
        if len(users) != 1:
            return False
        (node,) = users
        if is_standard(node, "MatMul"):
            return is_masked and is_softmax and any(value in node.inputs for value in heads)
        is_masked = is_masked or is_standard(node, "Add", "Where")
        is_softmax = is_softmax or is_standard(node, "Softmax")
        if not is_standard(node, "Add", "Where", "Softmax", "Div", "Mul"):
            return False
    return False


def _heads_of(node: ir.Node) -> ir.Value | None:
    """Return the result of a projection with its heads in axis 1, or None for another node."""
    value = node.outputs[0]
    for op_types in (("Add",), ("Reshape",), ("Transpose",)):
        users = list(_users(value))
        if len(users) != 1 or not is_standard(users[0], *op_types):
            return None
        (user,) = users
        if user.op_type == "Reshape":
            target = resolve(user.inputs[1])
            sizes = [] if target is None else [int(size) for size in target.array().reshape(-1)]
            if len(sizes) != 4 or sizes[:2] != [0, 0]:
                return None
        if user.op_type == "Transpose" and perm_of(user, 4) not in _HEADS:
            return None
        (value,) = user.outputs
    return value


def _unscaled(value: ir.Value | None) -> ir.Value | None:
    """Return what a constant divides or multiplies, or the value itself."""
    node = None if value is None else value.producer()
    if node is not None and is_standard(node, "Div", "Mul") and resolve(node.inputs[1]) is not None:
        return node.inputs[0]
    return value


def _users(value: ir.Value) -> Iterator[ir.Node]:
    for use in value.uses():
        yield use.node
