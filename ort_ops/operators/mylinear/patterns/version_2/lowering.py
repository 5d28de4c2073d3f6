"""Put standard operators into a graph in place of MYLINEAR of version 2: its product, then its activation. No torch."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from ort_ops.operators.mylinear.patterns.lowering import lower_node as lower_product
from ort_ops.operators.mylinear.patterns.version_2.nodes import activation_of, put_in_place
from ort_ops.operators.mylinear.patterns.version_2.writer import Writer
from ort_ops.operators.mylinear.version_2.contract import NONE
from ort_ops.rewrite.graph.constants import Constant
from ort_ops.rewrite.graph.editor import Editor, remove_dead
from ort_ops.rewrite.graph.folding import resolve
from ort_ops.rewrite.graph.shapes import known_dtype
from ort_ops.rewrite.pattern import Change

_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def lower_node(node: ir.Node, graph: ir.Graph, editor: Editor) -> Change:
    """Replace one node by what version 1 becomes, and the operators of its activation.

    A weight of 16 bits under float32 becomes float32, which has all its numbers. Gelu is one node from opset 20 on.
    float16 and bfloat16 round after each operator, where MYLINEAR rounds once.
    """
    activation = activation_of(node)
    x, weight = node.inputs[:2]
    assert x is not None
    assert weight is not None
    wide = _widened(weight, known_dtype(x), node, graph, editor)
    old_inputs = list(node.inputs)
    plain = put_in_place(node, graph, activation=NONE, weight=wide)
    remove_dead(old_inputs)
    if activation == NONE:
        return lower_product(plain, graph, editor)
    (total,) = plain.outputs
    dtype = known_dtype(total) or known_dtype(x)
    name = total.name or "y"
    writer = Writer(editor, graph, plain, name, dtype)
    result = writer.write(activation, total)
    result.type, result.shape = total.type, total.shape
    total.name, result.name = editor.new_name(f"{name}_sum"), name
    for use in list(total.uses()):
        if use.node not in writer.made:
            use.node.replace_input_with(use.idx, result)
    for index, output in enumerate(graph.outputs):
        if output is total:
            graph.outputs[index] = result
    change = lower_product(plain, graph, editor)
    what = "+".join((change.what, *(made.op_type for made in writer.made)))
    return replace(change, what=what, constants=writer.constants)


def _widened(weight: ir.Value, dtype: ir.DataType | None, node: ir.Node, graph: ir.Graph, editor: Editor) -> ir.Value:
    """Return the weight in the type of X: a stored one, or one that a Cast computes."""
    own = known_dtype(weight)
    if dtype is None or own == dtype or own not in _NARROW:
        return weight
    constant = resolve(weight)
    if constant is not None:
        return editor.store(_cast(constant, dtype), graph, name=f"{constant.source.name}_{dtype.name.lower()}")
    cast = ir.node("Cast", [weight], {"to": dtype.value})
    graph.insert_before(node, cast)
    cast.outputs[0].name = editor.new_name(f"{weight.name}_{dtype.name.lower()}")
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(dtype), weight.shape
    return cast.outputs[0]


def _cast(constant: Constant, dtype: ir.DataType) -> Constant:
    wanted = dtype.numpy()
    return replace(constant.then(f"cast {dtype.name}", lambda array: array.astype(wanted)), cast_to=dtype)
