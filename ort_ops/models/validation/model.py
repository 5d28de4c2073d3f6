"""Validate a loaded model once, so that every command and session can rely on it.

The time is linear in the model; weights are not read. A model that is refused here would be refused by onnxruntime too,
or take it an unbounded time; the error is one line, where libraries would print tracebacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import onnx
from onnx import defs

from ort_ops.errors import ModelError
from ort_ops.models.external_data import ExternalData
from ort_ops.models.graphs import NodeContainer, Scope, declared_values, node_label, scopes, tensors_of
from ort_ops.models.validation.functions import check_functions
from ort_ops.models.validation.names import check_names
from ort_ops.models.validation.node_order import sort_nodes
from ort_ops.models.validation.tensors import check_tensor, is_element_type
from ort_ops.models.validation.texts import check_texts

_DEFAULT_DOMAINS = ("", "ai.onnx")


def validate_model(model: onnx.ModelProto, what: str, external: ExternalData | None) -> None:
    """Check text, functions, names, nodes, types, and the size of all data; put the nodes in order.

    Args:
        what: the model in words, such as ``'model.onnx'`` in quotes.
        external: the files that may hold its data; None to skip them.

    Raises: ModelError that says what is wrong in one line.
    """
    with _named(what):
        check_texts([model])
        for importer in (model, *model.functions):
            check_texts(importer.opset_import)
        check_functions(model)
        owners: list[tuple[NodeContainer, str]] = [(model.graph, "the graph")]
        owners += [(function, f"function '{function.name}'") for function in model.functions]
        for owner, where in owners:
            if not check_names(owner, where):
                sort_nodes(owner, where)
        _check_inputs_have_types(model)
        local = {(function.domain, function.name) for function in model.functions}
        for scope in scopes(model):
            tensors = list(tensors_of(scope.container))
            values = list(declared_values(scope.container))
            for messages in ([scope.container], scope.container.node, tensors, values):
                check_texts(messages)
            _check_nodes(scope, model, local)
            for tensor in tensors:
                check_tensor(tensor, external)
            for value in values:
                _check_type(value)


def guard_model(model: onnx.ModelProto, what: str, external: ExternalData) -> None:
    """Check what onnxruntime does not: how far functions expand and, in older versions, where data lies.

    For a session, which leaves the rest of `validate_model` to onnxruntime, since it takes a fifth of a session's time.

    Raises: as `validate_model`.
    """
    with _named(what):
        check_functions(model)
        for scope in scopes(model):
            for tensor in tensors_of(scope.container):
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    check_tensor(tensor, external)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Put the name of the model before the message of an error."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{what}{error}") from error


@dataclass(frozen=True)
class _Rules:
    """The rules of one version of an operator: numbers of inputs and outputs, and types of attributes."""

    inputs: range
    outputs: range
    required_inputs: tuple[int, ...]
    attributes: dict[str, int]
    required_attributes: frozenset[str]


@lru_cache(maxsize=4096)
def _rules(name: str, version: int) -> _Rules | None:
    """Return the rules of an operator of ONNX's own domain, or None where onnx does not know this version."""
    if not 0 < version <= defs.onnx_opset_version():
        return None
    try:
        schema = defs.get_schema(name, version, "")
    except defs.SchemaError:
        return None
    single = defs.OpSchema.FormalParameterOption.Single
    attributes: list[Any] = list(schema.attributes.values())
    return _Rules(
        inputs=range(schema.min_input, schema.max_input + 1),
        outputs=range(schema.min_output, schema.max_output + 1),
        required_inputs=tuple(i for i, parameter in enumerate(schema.inputs) if parameter.option == single),
        attributes={attribute.name: attribute.type.value for attribute in attributes},
        required_attributes=frozenset(attribute.name for attribute in attributes if attribute.required),
    )


def _check_nodes(scope: Scope, model: onnx.ModelProto, local: set[tuple[str, str]]) -> None:
    """Check each node by itself, by the rules of its operator."""
    owner = scope.root if isinstance(scope.root, onnx.FunctionProto) else model
    domains = {entry.domain for entry in (*owner.opset_import, *model.opset_import)}
    version = max((entry.version for entry in owner.opset_import if entry.domain in _DEFAULT_DOMAINS), default=0)
    for node in scope.container.node:
        op_type, domain = node.op_type, node.domain
        if not op_type:
            raise ModelError(f" is damaged: node '{node_label(node)}' has no operator")
        if node.attribute:
            _check_attributes(node)
        if domain not in domains and not (domain in _DEFAULT_DOMAINS and domains.intersection(_DEFAULT_DOMAINS)):
            raise ModelError(
                f" is damaged: node '{node_label(node)}' ({op_type}) is of domain '{domain or 'ai.onnx'}', "
                "of which the model imports no version"
            )
        if domain in _DEFAULT_DOMAINS and (domain, op_type) not in local:
            rules = _rules(op_type, version)
            if rules is not None:
                _check_against(node, rules)


def _check_attributes(node: onnx.NodeProto) -> None:
    names: set[str] = set()
    check_texts(node.attribute)
    for attribute in node.attribute:
        if not attribute.name:
            raise ModelError(f" is damaged: an attribute of node '{node_label(node)}' has no name")
        if attribute.name in names:
            raise ModelError(f" is damaged: node '{node_label(node)}' has two attributes '{attribute.name}'")
        if attribute.type == onnx.AttributeProto.UNDEFINED:
            raise ModelError(f" is damaged: attribute '{attribute.name}' of node '{node_label(node)}' has no type")
        names.add(attribute.name)


def _check_against(node: onnx.NodeProto, rules: _Rules) -> None:
    """Check a node's inputs, outputs and attributes."""
    label = f" is damaged: node '{node_label(node)}' ({node.op_type})"
    for what, names, expected in (("inputs", node.input, rules.inputs), ("outputs", node.output, rules.outputs)):
        if len(names) not in expected:
            least, most = expected[0], expected[-1]
            rule = f"{least}" if least == most else f"{least} to {most}" if most < 1000 else f"{least} or more"
            raise ModelError(f"{label} must have {rule} {what}, got {len(names)}")
    for i in rules.required_inputs:
        if i < len(node.input) and not node.input[i]:
            raise ModelError(f"{label} must have an input {i}, which has no name")
    given = {attribute.name: attribute.type for attribute in node.attribute}
    for name, found in given.items():
        if rules.attributes.get(name, found) != found:
            wanted = onnx.AttributeProto.AttributeType.Name(rules.attributes[name])
            got = onnx.AttributeProto.AttributeType.Name(found)
            raise ModelError(f"{label}: attribute '{name}' must be of type {wanted}, got {got}")
    missing = rules.required_attributes - given.keys()
    if missing:
        raise ModelError(f"{label} lacks the attribute '{min(missing)}'")


def _check_inputs_have_types(model: onnx.ModelProto) -> None:
    """Check that the inputs of the model state their types; those of inner values can be inferred."""
    for value in model.graph.input:
        kind = value.type.WhichOneof("value")
        if kind is None or (kind == "tensor_type" and not value.type.tensor_type.elem_type):
            raise ModelError(f" is damaged: input '{value.name}' has no element type")


def _check_type(value: onnx.ValueInfoProto) -> None:
    """Check that onnx knows the element type that a value states, if any."""
    stated = value.type
    while (kind := stated.WhichOneof("value")) in ("sequence_type", "optional_type", "map_type"):
        inner = getattr(stated, kind)
        stated = inner.value_type if kind == "map_type" else inner.elem_type
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return
    tensor = getattr(stated, kind)
    if tensor.elem_type and not is_element_type(tensor.elem_type):
        raise ModelError(f" is damaged: value '{value.name}' has the unknown element type {tensor.elem_type}")
    if any(isinstance(dim.dim_param, bytes) for dim in tensor.shape.dim):
        raise ModelError(f" is damaged: a dimension of value '{value.name}' has a name that is not in UTF-8")
