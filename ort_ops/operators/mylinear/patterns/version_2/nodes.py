"""What the patterns of version 2 share: MYLINEAR nodes as onnx_ir has them. No torch."""

from __future__ import annotations

import onnx_ir as ir

from ort_ops.operators.mylinear.version_2.contract import MYLINEAR_2, NONE
from ort_ops.rewrite.graph.constants import refers_to_function
from ort_ops.rewrite.graph.editor import node_like


def is_linear(node: ir.Node) -> bool:
    """Whether the node is MYLINEAR of either version, with an activation that is known."""
    return (node.domain, node.op_type) == (MYLINEAR_2.domain, MYLINEAR_2.name) and not refers_to_function(node)


def activation_of(node: ir.Node) -> str:
    """Return the activation of a MYLINEAR node."""
    return node.attributes.get_string("activation", NONE)


def put_in_place(
    node: ir.Node, graph: ir.Graph, *, activation: str | None = None, weight: ir.Value | None = None
) -> ir.Node:
    """Put a copy of a MYLINEAR node, with another activation or weight, in its place, and return it."""
    activation = activation or activation_of(node)
    inputs = list(node.inputs)
    if weight is not None:
        inputs[1] = weight
    attributes = {} if activation == NONE else {"activation": activation}
    made = node_like(node, node.op_type, inputs, attributes, domain=node.domain)
    graph.insert_before(node, made)
    old, new = node.outputs[0], made.outputs[0]
    new.name, old.name = old.name, None
    new.type, new.shape = old.type, old.shape
    new.meta.update(old.meta)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return made
