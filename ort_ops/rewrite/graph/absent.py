"""Make the tensor that stands for an optional input that a node lacks. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from ort_ops.models.complete import absent_nodes
from ort_ops.opdef.element_types import ELEMENT_TYPES
from ort_ops.opdef.operator import AbsentInput, Operator
from ort_ops.rewrite.graph.editor import Editor
from ort_ops.rewrite.graph.shapes import known_dtype, known_shape
from ort_ops.rewrite.reasons import RewriteError

Values = Sequence[ir.Value | None]
_OPSET_OF_CAST_LIKE = 15


def absent_input(
    operator: Operator, index: int, values: Values, node: ir.Node, graph: ir.Graph, editor: Editor, opset: int
) -> ir.Value | None:
    """Return what stands for an absent input: a stored tensor, or one that new nodes before ``node`` compute.

    Args:
        values: the inputs in the operator's order.

    Returns: None if the operator says that nothing can stand for the input.
    Raises: RewriteError where the element type, or below opset 15 the shape, is not known.
    """
    parameter = operator.inputs[index]
    absent = parameter.absent
    if absent is None:
        return None
    name = f"{node.name or node.outputs[0].name}_absent_{parameter.argument}"
    dtype = dtype_of(operator, index, values, node)
    shape = shape_of(operator, absent, values)
    if dtype is not None and shape is not None:
        return editor.store_filled(shape, absent.value, dtype, graph, f"absent_{parameter.argument}")
    by_name = {p.name: value for p, value in zip(operator.inputs, values, strict=False) if value is not None}
    same_type = [p.name for p in operator.inputs if p.type == parameter.type and p.name in by_name]
    if not same_type or opset < _OPSET_OF_CAST_LIKE:
        raise RewriteError(
            f"the shape or element type of {parameter.argument}, which node '{node.name}' lacks, cannot be inferred; "
            f"give the node one, or convert the model to opset {_OPSET_OF_CAST_LIKE} or newer"
        )
    nodes = absent_nodes("made", absent, {formal: formal for formal in by_name}, same_type[0], lambda wanted: wanted)
    body = onnx.GraphProto(name="absent", node=nodes)
    body.input.extend(onnx.ValueInfoProto(name=formal) for formal in by_name)
    body.output.add(name="made")
    inner = ir.serde.deserialize_graph(body)
    for formal in inner.inputs:
        actual = by_name[formal.name or ""]
        formal.replace_all_uses_with(actual)
    (result,) = inner.outputs
    inner.outputs.clear()
    made = list(inner)
    inner.remove(made)
    for each in made:
        for value in each.outputs:
            value.name = editor.new_name(name if value is result else f"{name}_{value.name}")
    graph.insert_before(node, made)
    return result


def dtype_of(operator: Operator, index: int, values: Values, node: ir.Node | None = None) -> ir.DataType | None:
    """Return the element type of an input, from others of its type variable; None if none is known."""
    variable = operator.inputs[index].type
    pairs = [*zip(operator.inputs, values, strict=False)]
    if node is not None:
        pairs += zip(operator.outputs, node.outputs, strict=False)
    known = [known_dtype(value) for parameter, value in pairs if parameter.type == variable and value is not None]
    if len(variable.dtypes) == 1:
        known.append(ir.DataType(ELEMENT_TYPES[variable.dtypes[0]].onnx_type))
    return next((dtype for dtype in known if dtype is not None), None)


def shape_of(operator: Operator, absent: AbsentInput, values: Values) -> list[int] | None:
    """Return the shape of the tensor for an absent input, if it is known when the model is rewritten."""
    by_name = {parameter.name: value for parameter, value in zip(operator.inputs, values, strict=False)}
    sizes: list[int] = []
    for dim in absent.dims:
        if isinstance(dim, int):
            sizes.append(dim)
            continue
        source = by_name.get(dim[0])
        shape = None if source is None else known_shape(source)
        size = None if shape is None or not -len(shape) <= dim[1] < len(shape) else shape[dim[1]]
        if not isinstance(size, int):
            return None
        sizes.append(size)
    return sizes
