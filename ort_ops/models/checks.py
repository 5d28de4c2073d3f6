"""Check shapes, element types and the definitions inside a model that has nodes of registered operators."""

from __future__ import annotations

import onnx
from onnx import helper

from ort_ops.models.nodes import check_operator_nodes, definitions, domain_version, operator_nodes
from ort_ops.opdef.element_types import element_type_name
from ort_ops.opdef.onnx_objects import make_function
from ort_ops.opdef.operator import ContractError, Operator


def check_shapes(model: onnx.ModelProto) -> None:
    """Check the shapes and element types that the model states around each node of a registered operator.

    Raises: ContractError naming the node.
    """
    for found in check_operator_nodes(model):
        operator, scope = found.operator, found.scope
        shapes = [scope.shape_of(name) if name else None for name in found.inputs]
        types = [scope.element_type_of(name) if name else None for name in found.inputs]
        try:
            operator.infer_shape(shapes, found.attributes)
            operator.bind(_with_implied(operator, types))
        except ContractError as error:
            raise ContractError(f"{error} (node '{found.label}')") from error


def _with_implied(operator: Operator, types: list[int | None]) -> list[str | None]:
    """Return the names of the inputs' types; take an unknown one from another input with the same type variable."""
    names = [element_type_name(t) if t else None for t in types]
    known: dict[str, str] = {}
    for parameter, name in zip(operator.inputs, names, strict=True):
        if name is not None:
            known.setdefault(parameter.type.name, name)
    return [
        name or (None if parameter.is_optional else known.get(parameter.type.name, parameter.type.dtypes[0]))
        for parameter, name in zip(operator.inputs, names, strict=True)
    ]


def function_difference(model: onnx.ModelProto) -> str | None:
    """Say how a definition inside the model differs from the contract's; None if it does not."""
    by_version = sorted((found.operator for found in operator_nodes(model)), key=lambda o: o.since_version)
    used = {operator.op_type: operator for operator in by_version}  # the newest under each name
    differences = (_operator_difference(model, operator) for operator in used.values())
    return next((found for found in differences if found is not None), None)


def _operator_difference(model: onnx.ModelProto, operator: Operator) -> str | None:
    found = [f for f in model.functions if (f.domain, f.name) == (operator.domain, operator.name)]
    if not found or operator.make_body is None:
        return None
    if len(found) > 1:
        return f"there are {len(found)} definitions of {operator.name} inside the model"
    (function,) = found
    opset = next((entry.version for entry in function.opset_import if entry.domain in ("", "ai.onnx")), 0)
    try:
        types = next(types for found, types in definitions(model) if found.key == operator.key)
        expected, *former = (
            make_function(operator, opset or domain_version(model, ""), types, make_body)
            for make_body in (None, *operator.former_bodies)
        )
    except ContractError as error:
        return f"the definition of {operator.name} inside the model is not the contract's: {error}"
    detail = _difference(function, expected)
    if detail is None or any(_difference(function, other) is None for other in former):
        return None
    remedy = "export the model again, or take the definition out"
    return f"the definition of {operator.name} inside the model is not the contract's{detail}; {remedy}"


def _difference(function: onnx.FunctionProto, expected: onnx.FunctionProto) -> str | None:
    """Say what differs, as the end of a sentence "... is not the contract's"; None for nothing."""
    for what, got, wanted in (
        ("inputs", list(function.input), list(expected.input)),
        ("outputs", list(function.output), list(expected.output)),
        ("attributes", _attributes(function), _attributes(expected)),
        ("operators", [node.op_type for node in function.node], [node.op_type for node in expected.node]),
        ("nodes", [_essence(node) for node in function.node], [_essence(node) for node in expected.node]),
    ):
        if got != wanted:
            return "" if what == "nodes" else f": {what} {got} instead of {wanted}"
    return None


def _attributes(function: onnx.FunctionProto) -> list[str]:
    """Return the function's attributes, with their defaults."""
    defaults = [f"{a.name}={helper.get_attribute_value(a)}" for a in function.attribute_proto]
    return sorted([*function.attribute, *defaults])


def _essence(node: onnx.NodeProto) -> tuple[object, ...]:
    """Return what a node computes, without its name, its documentation and the order of its attributes."""
    attributes = {a.name: a.ref_attr_name or str(helper.get_attribute_value(a)) for a in node.attribute}
    return node.domain, node.op_type, tuple(node.input), tuple(node.output), tuple(sorted(attributes.items()))
