"""Element types inside model-local functions, as the nodes that call them give them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress

import onnx
from onnx import helper

from ort_ops.models.graphs import NodeContainer, Scope, function_scopes, scopes_in

Key = tuple[str, str, str]


def typed_functions(
    model: onnx.ModelProto, definitions: Collection[tuple[str, str]]
) -> dict[Key, list[onnx.FunctionProto]]:
    """Return copies of the functions that are called, which state the element types of their values.

    Args:
        model: with the types of its main graph, as far as they can be inferred.
        definitions: domains and names of the functions that define operators; they are left out.

    Returns: for each function, by domain, name and overload, a copy for each combination of types and attributes that
    it is called with; none for a function that nothing calls.
    """
    functions = {_key(f): f for f in model.functions if (f.domain, f.name) not in definitions}
    found: dict[Key, dict[bytes, onnx.FunctionProto]] = {}
    pending: list[Scope] = [*scopes_in(Scope(model.graph))] if functions else []
    while pending:
        scope = pending.pop()
        for node in scope.container.node:
            key = node.domain, node.op_type, node.overload
            if key not in functions:
                continue
            types = [scope.element_type_of(name) or 0 if name else 0 for name in node.input]
            attributes = [a.SerializeToString(deterministic=True) for a in sorted(node.attribute, key=_name)]
            call = repr((types, attributes)).encode()
            variants = found.setdefault(key, {})
            if call not in variants:
                variants[call] = _typed(model, functions[key], node, types)
                pending += function_scopes(variants[call])
    return {key: [*variants.values()] for key, variants in found.items()}


def state_types(model: onnx.ModelProto, definitions: Collection[tuple[str, str]]) -> None:
    """State the types inside each function that is called with one combination of types alone; changes the model."""
    typed = typed_functions(model, definitions)
    for function in model.functions:
        variants = typed.get(_key(function), [])
        if len(variants) != 1:
            continue
        for ours, theirs in zip(_containers(function), _containers(variants[0]), strict=True):
            known = {value.name for value in ours.value_info}
            ours.value_info.extend(value for value in theirs.value_info if value.name not in known)


def _typed(
    model: onnx.ModelProto, function: onnx.FunctionProto, call: onnx.NodeProto, types: list[int]
) -> onnx.FunctionProto:
    """Return a copy of a function for one call: its attributes are bound, and its values have types."""
    typed = onnx.FunctionProto()
    typed.CopyFrom(function)
    values = {a.name: a for a in (*function.attribute_proto, *call.attribute)}
    for container in _containers(typed):
        for node in container.node:
            for attribute in node.attribute:
                if attribute.ref_attr_name in values:
                    name = attribute.name
                    attribute.CopyFrom(values[attribute.ref_attr_name])
                    attribute.name = name
    inputs = [
        helper.make_tensor_value_info(name, number, None) if number else onnx.ValueInfoProto(name=name)
        for name, number in zip(function.input, [*types, *[0] * len(function.input)], strict=False)
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in function.output]
    graph = helper.make_graph(typed.node, function.name, inputs, outputs)
    alone = helper.make_model(
        graph, functions=model.functions, opset_imports=function.opset_import, ir_version=max(model.ir_version, 8)
    )
    with suppress(Exception):  # errors of many types; onnxruntime says more clearly what is wrong
        alone = onnx.shape_inference.infer_shapes(alone)
    del typed.node[:]
    typed.node.extend(alone.graph.node)
    known = {value.name for value in typed.value_info}
    stated = [*alone.graph.input, *alone.graph.value_info, *alone.graph.output]
    typed.value_info.extend(v for v in stated if v.name not in known and v.type.tensor_type.elem_type)
    return typed


def _containers(function: onnx.FunctionProto) -> Iterator[NodeContainer]:
    return (scope.container for scope in function_scopes(function))


def _key(function: onnx.FunctionProto) -> Key:
    return function.domain, function.name, function.overload


def _name(attribute: onnx.AttributeProto) -> str:
    return str(attribute.name)
