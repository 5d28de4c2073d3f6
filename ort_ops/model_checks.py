"""What can be wrong with a model that holds the operator, beyond its nodes: names, shapes, the definition inside."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from ort_ops.contract import MYLINEAR
from ort_ops.model import ModelError, NodeContainer, check_linear_nodes, domain_version, element_types, linear_nodes
from ort_ops.operator import ContractError, Dim, Shape


def check_names(model: onnx.ModelProto, source: object) -> None:
    """Check that every value has one name and every name stands for one value. Raises: ModelError."""
    _check_scope(model.graph, set(), source, "the graph")
    for function in model.functions:
        _check_scope(function, set(), source, f"function '{function.name}'")
    identifiers = [(f.domain, f.name, f.overload) for f in model.functions]
    for identifier in identifiers:
        if identifiers.count(identifier) > 1:
            raise ModelError(f"'{source}' is damaged: function '{identifier[1]}' is defined twice")


def check_linear_shapes(model: onnx.ModelProto) -> None:
    """Check the shapes that the model states around each MYLINEAR node. Raises: ContractError naming the node."""
    for linear in check_linear_nodes(model):
        known = known_shapes(linear.container)
        try:
            MYLINEAR.infer_shape([known.get(name) if name else None for name in linear.node.input])
        except ContractError as error:
            raise ContractError(f"{error} (node '{linear.label}')") from error


def function_difference(model: onnx.ModelProto) -> str | None:
    """Say in what the definition inside the model differs from the contract's; None for in nothing."""
    found = [f for f in model.functions if (f.domain, f.name) == (MYLINEAR.domain, MYLINEAR.name)]
    if not found or not linear_nodes(model):
        return None
    if len(found) > 1:
        return f"there are {len(found)} definitions of {MYLINEAR.name} inside the model"
    (function,) = found
    opset = next((entry.version for entry in function.opset_import if entry.domain in ("", "ai.onnx")), 0)
    try:
        expected = MYLINEAR.function(opset or domain_version(model, ""), element_types(model))
    except ContractError as error:
        return f"the definition of {MYLINEAR.name} inside the model is not the contract's: {error}"
    remedy = "export the model again, or take the definition out"
    for what, got, wanted in (
        ("inputs", list(function.input), list(expected.input)),
        ("outputs", list(function.output), list(expected.output)),
        ("attributes", list(function.attribute), []),
        ("operators", [node.op_type for node in function.node], [node.op_type for node in expected.node]),
        ("nodes", [_essence(node) for node in function.node], [_essence(node) for node in expected.node]),
    ):
        if got != wanted:
            detail = "" if what == "nodes" else f": {what} {got} instead of {wanted}"
            return f"the definition of {MYLINEAR.name} inside the model is not the contract's{detail}; {remedy}"
    return None


def known_shapes(container: NodeContainer) -> dict[str, Shape]:
    """Shapes by value name, as far as the container itself states them."""
    shapes: dict[str, Shape] = {}
    values = list(container.value_info)
    if isinstance(container, onnx.GraphProto):
        values += [*container.input, *container.output]
        shapes.update((tensor.name, list(tensor.dims)) for tensor in container.initializer)
    for value in values:
        if value.type.tensor_type.HasField("shape"):
            shapes.setdefault(value.name, [_dim(dim) for dim in value.type.tensor_type.shape.dim])
    return shapes


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.dim_param else None


def _essence(node: onnx.NodeProto) -> tuple[object, ...]:
    """What a node computes, without its name, its documentation and the order of its attributes."""
    attributes = {a.name: a.ref_attr_name or str(helper.get_attribute_value(a)) for a in node.attribute}
    return node.domain, node.op_type, tuple(node.input), tuple(node.output), tuple(sorted(attributes.items()))


def _check_scope(container: NodeContainer, outer: set[str], source: object, where: str) -> None:
    own: set[str] = set()

    def define(name: str, what: str) -> None:
        if not name:
            raise ModelError(f"'{source}' is damaged: {what} of {where} has no name")
        if name in own or name in outer:
            raise ModelError(f"'{source}' is damaged: name '{name}' of {where} stands for two values")
        own.add(name)

    if isinstance(container, onnx.GraphProto):
        for value in container.input:
            define(value.name, "an input")
        inputs = set(own)
        stored = [tensor.name for tensor in container.initializer]
        for name in stored:
            if name not in inputs or stored.count(name) > 1:
                define(name, "an initializer")
        outputs: Sequence[str] = [value.name for value in container.output]
    else:
        for name in container.input:
            define(name, "an input")
        outputs = list(container.output)
    for node in container.node:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                if graph.node or graph.output:
                    _check_scope(graph, outer | own, source, f"subgraph '{graph.name}'")
        for name in node.output:
            if name:  # an empty name is an output that is left out
                define(name, "a value")
    for name in outputs:
        if not name:
            raise ModelError(f"'{source}' is damaged: an output of {where} has no name")
    if len(set(outputs)) != len(outputs):
        raise ModelError(f"'{source}' is damaged: two outputs of {where} have one name")
