"""Models that hold the operator: read them, check them against the contract, complete them. ONNX only, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ort_ops.errors import ModelError as ModelError
from ort_ops.models.complete import complete_biases as complete_biases
from ort_ops.models.files import load_model as load_model
from ort_ops.models.files import look_at_model as look_at_model
from ort_ops.models.graphs import NodeContainer as NodeContainer
from ort_ops.models.graphs import Scope, function_scopes, is_linear, node_label, scopes, scopes_at
from ort_ops.models.graphs import all_nodes as all_nodes
from ort_ops.models.graphs import tensors as tensors
from ort_ops.models.validation.tensors import tensor_nbytes as tensor_nbytes
from ort_ops.opdef.element_types import ElementType
from ort_ops.opdef.onnx_objects import make_function, register_schema
from ort_ops.opdef.operator import ContractError
from ort_ops.operators.mylinear.contract import MYLINEAR

# Of models made here: the newest that onnxruntime 1.17 loads.
_OPSET, _IR_VERSION = 20, 9


@dataclass(frozen=True)
class LinearNode:
    """One MYLINEAR node and the scope that it stands in."""

    scope: Scope
    node: onnx.NodeProto

    @property
    def container(self) -> NodeContainer:
        return self.scope.container

    @property
    def where(self) -> str:
        """The bodies and the function around it in words; empty in the main graph."""
        return self.scope.where

    @property
    def label(self) -> str:
        """The node's name, or its output's where it has none."""
        return node_label(self.node)

    @property
    def path(self) -> str:
        """The label, and where the node stands: names need not be unique across bodies."""
        return f"{self.label} {self.where}".rstrip()

    @property
    def has_bias(self) -> bool:
        return len(self.node.input) > 2 and bool(self.node.input[2])


def make_linear_model(
    x_shape: Sequence[int | str], weight: NDArray[Any], bias: NDArray[Any] | None, *, with_function: bool = True
) -> onnx.ModelProto:
    """Make a model of one MYLINEAR node, ``x`` to ``y``, with the weights inside.

    Args:
        x_shape: of the input; a name for a dynamic dimension.
        weight: ``[out_features, in_features]``; its dtype is the model's.
        bias: ``[out_features]``, or None.
        with_function: whether to complete it as an exported model is: with a bias and the function body.
    """
    element_type = MYLINEAR.element_type(weight.dtype.name).onnx_type
    initializers = [numpy_helper.from_array(np.ascontiguousarray(weight), "weight")]
    if bias is not None:
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(bias), "bias"))
    inputs = ["x", *(tensor.name for tensor in initializers)]
    graph = helper.make_graph(
        [helper.make_node(MYLINEAR.name, inputs, ["y"], name="linear", domain=MYLINEAR.domain)],
        "one_linear",
        [helper.make_tensor_value_info("x", element_type, x_shape)],
        [helper.make_tensor_value_info("y", element_type, [*x_shape[:-1], weight.shape[0]])],
        initializers,
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MYLINEAR.domain, MYLINEAR.since_version)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    if with_function:
        complete_biases(model)
        attach_function(model)
    return model


def linear_nodes(model: onnx.ModelProto) -> list[LinearNode]:
    """Return every MYLINEAR node: of the main graph, of If/Loop/Scan bodies, and of model-local functions."""
    return [linear for scope in scopes(model) for linear in _linear_nodes_of(scope)]


def linear_nodes_within(model: onnx.ModelProto, node: onnx.NodeProto) -> list[LinearNode]:
    """Return the MYLINEAR nodes that a node of the main graph is, has in its bodies, or calls as functions."""
    graph = Scope(model.graph)
    found = [LinearNode(graph, node)] if is_linear(node) else []
    functions = {
        (f.domain, f.name): f for f in model.functions if (f.domain, f.name) != (MYLINEAR.domain, MYLINEAR.name)
    }
    called = functions.pop((node.domain, node.op_type), None)
    pending = [*scopes_at(node, graph), *(function_scopes(called) if called is not None else ())]
    while pending:
        scope = pending.pop(0)
        found += _linear_nodes_of(scope)
        for inner in scope.container.node:
            called = functions.pop((inner.domain, inner.op_type), None)
            if called is not None:
                pending += function_scopes(called)
    return found


def check_linear_nodes(model: onnx.ModelProto) -> list[LinearNode]:
    """Return `linear_nodes` after checking versions, number of inputs and attributes of each.

    Raises: ContractError for a version, opset, attribute or number of inputs that the contract does not have.
    """
    nodes = linear_nodes(model)
    if not nodes:
        return nodes
    MYLINEAR.check_version(domain_version(model))
    check_opsets(model)
    num_required, counts = MYLINEAR.num_required, range(MYLINEAR.num_required, len(MYLINEAR.inputs) + 1)
    for linear in nodes:
        node = linear.node
        if node.attribute:
            MYLINEAR.check_attributes([attribute.name for attribute in node.attribute])
        names = node.input
        if len(names) not in counts or not all(names[:num_required]):
            rule = f"X, W and optionally B (node '{linear.label}')"
            raise ContractError(MYLINEAR.message("the inputs", rule, f"{list(names)}"))
        if len(node.output) != 1:
            raise ContractError(MYLINEAR.message("the outputs", f"Y (node '{linear.label}')", f"{list(node.output)}"))
    return nodes


def require_linear_nodes(model: onnx.ModelProto, source: object) -> list[LinearNode]:
    """Return `check_linear_nodes`. Raises: ModelError also where there is none at all."""
    nodes = check_linear_nodes(model)
    if not nodes:
        raise ModelError(
            f"'{source}' has no {MYLINEAR.name} node of domain '{MYLINEAR.domain}'; "
            "`mylinear adopt` makes them of its linear layers, and exporter.swap_linear of those of a torch model"
        )
    return nodes


def domain_version(model: onnx.ModelProto | onnx.FunctionProto, domain: str = MYLINEAR.domain) -> int:
    """Return the opset version that the model, or function, imports of ``domain``; 0 where it imports none."""
    wanted = {"", "ai.onnx"} if domain == "" else {domain}
    return max((entry.version for entry in model.opset_import if entry.domain in wanted), default=0)


def check_opsets(model: onnx.ModelProto) -> None:
    """Check the version of ONNX's own domain of the model and of its functions. Raises: ContractError."""
    for owner in (model, *model.functions):
        MYLINEAR.check_opset(domain_version(owner, ""))


def element_types(model: onnx.ModelProto) -> set[str]:
    """Return the names of the element types of the model's MYLINEAR nodes.

    Raises: ContractError for a type that the contract does not have; ModelError where none can be inferred.
    """
    return {element_type.name for element_type in linear_element_types(model)}


def linear_element_types(model: onnx.ModelProto) -> list[ElementType]:
    """Return the element type of each of `linear_nodes`. Raises: as `element_types`."""
    nodes = linear_nodes(model)
    types = stated_types(nodes)
    if None in types:
        nodes = linear_nodes(with_shapes(model))
        types = stated_types(nodes)
    for linear, element_type in zip(nodes, types, strict=True):
        if element_type is None:
            raise ModelError(f"the element type of {MYLINEAR.name} node '{linear.label}' cannot be inferred")
    return [MYLINEAR.element_type(t) for t in types if t is not None]


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with what onnx can infer of types and shapes; as it is where onnx refuses it."""
    register_schema(MYLINEAR)
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # of many types; onnxruntime says more clearly what is wrong
        return model


def stated_types(nodes: Sequence[LinearNode]) -> list[int | None]:
    """Return the element type of each node as the model states it, without inference; None where it states none."""
    return [_stated_type(linear) for linear in nodes]


def attach_function(model: onnx.ModelProto) -> None:
    """Put the operator's definition into the model, as a model-local function at the model's own opset.

    Replaces a definition that is there. Every node must have its bias (`complete_biases`).

    Raises: ContractError if the opset cannot state it for the model's element types.
    """
    function = make_function(MYLINEAR, domain_version(model, ""), element_types(model))
    others = [f for f in model.functions if (f.domain, f.name) != (MYLINEAR.domain, MYLINEAR.name)]
    del model.functions[:]
    model.functions.extend([*others, function])
    model.ir_version = max(model.ir_version, 8)  # model-local functions came with IR version 8


def has_function(model: onnx.ModelProto) -> bool:
    """Whether the model carries the operator's definition."""
    return any((f.domain, f.name) == (MYLINEAR.domain, MYLINEAR.name) for f in model.functions)


def _linear_nodes_of(scope: Scope) -> Iterator[LinearNode]:
    """Yield the MYLINEAR nodes of one graph or function, not of the bodies inside."""
    for node in scope.container.node:
        if is_linear(node):
            yield LinearNode(scope, node)


def _stated_type(linear: LinearNode) -> int | None:
    scope = linear.scope
    for names in (linear.node.input, linear.node.output):
        for name in names:
            found = scope.element_type_of(name) if name else None
            if found:
                return found
    return None
