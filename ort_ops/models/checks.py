"""What can be wrong with a model that holds the operator, beyond its nodes: shapes, the definition inside."""

from __future__ import annotations

import onnx
from onnx import helper

from ort_ops.models.nodes import check_linear_nodes, domain_version, element_types, linear_nodes
from ort_ops.opdef.element_types import element_type_name
from ort_ops.opdef.onnx_objects import make_function
from ort_ops.opdef.operator import ContractError
from ort_ops.operators.mylinear.contract import MYLINEAR


def check_linear_shapes(model: onnx.ModelProto) -> None:
    """Check the shapes and element types that the model states around each MYLINEAR node.

    Raises: ContractError naming the node.
    """
    for linear in check_linear_nodes(model):
        shapes = [linear.scope.shape_of(name) if name else None for name in linear.node.input]
        types = [linear.scope.element_type_of(name) if name else None for name in linear.node.input]
        names = [element_type_name(element_type) if element_type else None for element_type in types]
        known = [name for name in names if name is not None]
        try:
            MYLINEAR.infer_shape(shapes, {})
            if known:
                MYLINEAR.bind([names[0] or known[0], *names[1:]])
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
        types = element_types(model)
        expected, *former = (
            make_function(MYLINEAR, opset or domain_version(model, ""), types, make_body)
            for make_body in (None, *MYLINEAR.former_bodies)
        )
    except ContractError as error:
        return f"the definition of {MYLINEAR.name} inside the model is not the contract's: {error}"
    detail = _difference(function, expected)
    if detail is None or any(_difference(function, other) is None for other in former):
        return None
    remedy = "export the model again, or take the definition out"
    return f"the definition of {MYLINEAR.name} inside the model is not the contract's{detail}; {remedy}"


def _difference(function: onnx.FunctionProto, expected: onnx.FunctionProto) -> str | None:
    """Say what differs, in words that go on from "is not the contract's"; None for nothing."""
    for what, got, wanted in (
        ("inputs", list(function.input), list(expected.input)),
        ("outputs", list(function.output), list(expected.output)),
        ("attributes", list(function.attribute), []),
        ("operators", [node.op_type for node in function.node], [node.op_type for node in expected.node]),
        ("nodes", [_essence(node) for node in function.node], [_essence(node) for node in expected.node]),
    ):
        if got != wanted:
            return "" if what == "nodes" else f": {what} {got} instead of {wanted}"
    return None


def _essence(node: onnx.NodeProto) -> tuple[object, ...]:
    """What a node computes, without its name, its documentation and the order of its attributes."""
    attributes = {a.name: a.ref_attr_name or str(helper.get_attribute_value(a)) for a in node.attribute}
    return node.domain, node.op_type, tuple(node.input), tuple(node.output), tuple(sorted(attributes.items()))
