"""Put the body of an operator in the place of one of its nodes. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx import defs

from ort_ops.models.graphs import needed_nodes
from ort_ops.opdef.onnx_objects import make_function
from ort_ops.opdef.operator import Operator
from ort_ops.rewrite.graph.absent import absent_input
from ort_ops.rewrite.graph.editor import Editor, is_used, remove_dead, take_over, types_of
from ort_ops.rewrite.pattern import Change
from ort_ops.rewrite.reasons import RewriteError


class Inliner:
    """Inline the bodies of operators into one model."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._functions: dict[tuple[object, ...], onnx.FunctionProto] = {}

    def inline(self, node: ir.Node, graph: ir.Graph, operator: Operator, opset: int) -> Change:
        """Replace one node by the body of its operator.

        Attributes have the node's values, or their defaults. Tensors for absent inputs are stored or computed. Nodes
        that only an unused output needs are left out.

        Args:
            opset: the version of ONNX's own domain that the graph's owner imports.

        Raises: RewriteError for a body that needs an absent input that nothing can stand for, or for unknown element
            types that no single body serves; ContractError.
        """
        name = node.name or node.outputs[0].name or ""
        function = self._function(operator, node, opset, name)
        attributes = _attributes(node, function)
        used = [formal for formal, value in zip(function.output, node.outputs, strict=False) if is_used(value)]
        nodes = [_resolved(body_node, attributes) for body_node in needed_nodes(function.node, used)]
        values: list[ir.Value | None] = [*node.inputs, *[None] * (len(operator.inputs) - len(node.inputs))]
        body = onnx.GraphProto(name="body", node=nodes)
        body.input.extend(onnx.ValueInfoProto(name=formal) for formal in function.input)
        body.output.extend(onnx.ValueInfoProto(name=formal) for formal in used)
        inner = ir.serde.deserialize_graph(body)
        outputs = {value.name: value for value in inner.outputs}
        for index, formal in enumerate(inner.inputs):
            if not formal.uses():
                continue
            actual = values[index]
            if actual is None:
                actual = absent_input(operator, index, values, node, graph, self._editor, opset)
            if actual is None:
                _take_out(formal, operator.inputs[index].argument, name)
            else:
                formal.replace_all_uses_with(actual)
        made = list(inner)
        inner.outputs.clear()
        inner.remove(made)
        self._rename(made, outputs, node)
        graph.insert_before(node, made)
        for formal, value in zip(function.output, node.outputs, strict=False):
            if formal in used:
                take_over(value, outputs[formal])
        old_inputs = list(node.inputs)
        graph.remove(node, safe=True)
        remove_dead(old_inputs)
        return Change("+".join(each.op_type for each in made if each.op_type != "Constant"))

    def _function(self, operator: Operator, node: ir.Node, opset: int, name: str) -> onnx.FunctionProto:
        """Return the definition for the node's element types; for all that a type variable may have if not known."""
        known = types_of(operator, node)
        present = {
            parameter.type.name
            for formal, values in ((operator.inputs, node.inputs), (operator.outputs, node.outputs))
            for parameter, value in zip(formal, values, strict=False)
            if value is not None
        }
        types: dict[str, tuple[str, ...]] = {}
        for variable in operator.variables:
            found = known.get(variable.name)
            if found is None and variable.name in present and len(variable.dtypes) > 1 and opset < 15:
                raise RewriteError(f"the element type of {operator.name} node '{name}' cannot be inferred")
            types[variable.name] = variable.dtypes if found is None else (found,)
        key = (operator.key, opset, *sorted(types.items()))
        if key not in self._functions:
            self._functions[key] = make_function(operator, opset, types)
        return self._functions[key]

    def _rename(self, made: Sequence[ir.Node], outputs: Mapping[str | None, ir.Value], node: ir.Node) -> None:
        """Give the nodes and values of a body names that no others have, and the node's documentation."""
        label = node.name or node.outputs[0].name or node.op_type
        results = {id(value) for value in outputs.values()}
        for each in made:
            each.name = self._editor.new_node_name(f"{node.name}_{each.outputs[0].name}") if node.name else None
            for value in each.outputs:
                if id(value) not in results and value.name:
                    value.name = self._editor.new_name(f"{label}_{value.name}")
        if len(made) == 1:
            made[0].name = node.name
        made[-1].doc_string = node.doc_string
        made[-1].metadata_props.update(node.metadata_props)


def _attributes(node: ir.Node, function: onnx.FunctionProto) -> dict[str, onnx.AttributeProto]:
    """Return the attributes of a node, with the defaults of those that it lacks."""
    found = {attribute.name: attribute for attribute in function.attribute_proto}
    return found | {name: ir.to_proto(attribute) for name, attribute in node.attributes.items()}


def _resolved(node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """Return a copy of a body's node in which each attribute of the operator has its value."""
    result = onnx.NodeProto()
    result.CopyFrom(node)
    del result.attribute[:]
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            given = attributes.get(attribute.ref_attr_name)
            if given is not None:  # one without a value is absent in the body, too
                copy = result.attribute.add()
                copy.CopyFrom(given)
                copy.name = attribute.name
            continue
        copy = result.attribute.add()
        copy.CopyFrom(attribute)
        graphs = [copy.g] if copy.HasField("g") else list(copy.graphs)
        for graph in graphs:
            resolved = [_resolved(inner, attributes) for inner in graph.node]
            del graph.node[:]
            graph.node.extend(resolved)
    return result


def _take_out(formal: ir.Value, argument: str, name: str) -> None:
    """Leave an absent input out where the body hands it to an optional one. Raises: RewriteError where it does not."""
    for use in list(formal.uses()):
        schema = defs.get_schema(use.node.op_type, domain=use.node.domain)
        option = schema.inputs[min(use.idx, len(schema.inputs) - 1)].option
        if option != defs.OpSchema.FormalParameterOption.Optional:
            raise RewriteError(f"the body of node '{name}' takes {argument}, which the node lacks; give it one")
        use.node.replace_input_with(use.idx, None)
