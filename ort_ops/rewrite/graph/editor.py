"""Change the graphs of one model: names, stored tensors, nodes and the definitions of operators. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ort_ops.opdef import registry
from ort_ops.opdef.element_types import element_type_name
from ort_ops.opdef.kit import OperatorKit
from ort_ops.opdef.onnx_objects import make_function
from ort_ops.opdef.operator import Operator
from ort_ops.rewrite.graph.constants import Array, Constant
from ort_ops.rewrite.graph.scaling import scale
from ort_ops.rewrite.graph.shapes import known_dtype
from ort_ops.rewrite.graph.walk import Owner, graphs_of, opset_of, owners_of
from ort_ops.rewrite.reasons import RewriteError


class Editor:
    """Change one model, and remember the tensors that were made, so that equal ones are shared."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._stored: dict[object, ir.Value] = {}
        self._function_graphs = {id(function.graph) for function in model.functions.values()}
        self._numbers: dict[str, int] = {}
        self._names = {value.name for _, graph in graphs_of(model) for value in _values_of(graph)}
        self._node_names = {node.name for _, graph in graphs_of(model) for node in graph}
        self.opsets = [opset_of(owner) for owner in owners_of(model)]
        """The version of ONNX's own domain that the model and each of its functions import; None for none."""

    def new_name(self, wanted: str) -> str:
        """Return a name that no value of the model has: the wanted one, followed by a number if necessary."""
        return self._new(wanted, self._names)

    def new_node_name(self, wanted: str) -> str:
        """Return a name that no node of the model has, in the same way."""
        return self._new(wanted, self._node_names)

    def _new(self, wanted: str, names: set[str | None]) -> str:
        name, number = wanted, self._numbers.get(wanted, 1)
        while name in names:
            name, number = f"{wanted}_{number}", number + 1
        self._numbers[wanted] = number
        names.add(name)
        return name

    def store(self, constant: Constant, graph: ir.Graph, *, factor: float = 1.0, name: str = "") -> ir.Value:
        """Return a value that holds the constant times the factor; the same one for the same constant.

        Args:
            graph: where it is needed; it is stored in the graph of its source.
            factor: such that no number is rounded.
            name: wanted for a new one.
        """
        source = constant.source
        if factor == 1.0 and constant.is_unchanged and source.is_initializer():
            return source
        key = (id(source), constant.canonical_steps, factor)
        if key not in self._stored:
            name = self.new_name(name or source.name or "constant")
            tensor = ir.LazyTensor(
                lambda: ir.Tensor(np.ascontiguousarray(scale(constant.array(), factor)), name=name),
                constant.dtype,
                ir.Shape(constant.shape),
                name=name,
            )
            self._stored[key] = self._keep(tensor, name, source.graph or graph)
        return self._stored[key]

    def store_filled(
        self, shape: Sequence[int], number: float, dtype: ir.DataType, graph: ir.Graph, name: str
    ) -> ir.Value:
        """Return a value of that shape whose elements are all one number; the same value for equal arguments."""
        key = (tuple(shape), np.float64(number).tobytes(), dtype, id(graph))
        if key not in self._stored:
            name = self.new_name(name)
            array: Array = np.full(tuple(shape), number, dtype.numpy())
            self._stored[key] = self._keep(ir.Tensor(array, dtype=dtype, name=name), name, graph)
        return self._stored[key]

    def _keep(self, tensor: ir.TensorProtocol, name: str, home: ir.Graph) -> ir.Value:
        """Put a tensor into the graph: as an initializer, or in a function, which has none, as a Constant node."""
        if id(home) in self._function_graphs:
            constant = ir.node("Constant", [], {"value": ir.AttrTensor("value", tensor)})
            value = constant.outputs[0]
            home.insert_before(home[0], constant)
        else:
            value = ir.Value()
        value.name, value.const_value = name, tensor
        value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        if value.producer() is None:
            home.register_initializer(value)
        return value

    def complete(self, kits: Sequence[OperatorKit]) -> None:
        """Import the domains of operators where their nodes are, and attach their definitions for the types in use.

        Raises: RewriteError for a model that imports no version of ONNX's own domain; ContractError.
        """
        model = self.model
        opset = opset_of(model)
        if opset is None:
            raise RewriteError("the model imports no version of ONNX's own operators")
        names = dict.fromkeys((kit.operator.domain, kit.operator.name) for kit in kits)
        for name in names:
            self._import(*name)
        versions = self.model.opset_imports
        used = [kit for name in names if (kit := registry.find(*name, versions.get(name[0]))) is not None]
        found = [function for kit in used if (function := self._define(kit.operator, opset)) is not None]
        if found:
            defined = {function.identifier(): function for function in found}
            others = {name: function for name, function in model.functions.items() if name not in defined}
            model.functions.clear()
            model.functions.update(defined)  # before their users, as some evaluators require
            model.functions.update(others)
            model.ir_version = max(model.ir_version, 8)  # model-local functions came with IR version 8

    def _import(self, domain: str, name: str) -> None:
        """Import, where nodes of an operator are, the oldest version of its domain that has all that they use."""
        needed = registry.oldest_version(domain)
        for owner in owners_of(self.model):
            versions = [_needed_version(node) for node in _nodes_of(owner, domain, name)]
            if versions:
                owner.opset_imports[domain] = max(owner.opset_imports.get(domain, 0), *versions)
                needed = max(needed, *versions)
        self.model.opset_imports[domain] = max(self.model.opset_imports.get(domain, 0), needed)

    def _define(self, operator: Operator, opset: int) -> ir.Function | None:
        """Return an operator's definition for the types in use; None if it has none."""
        if operator.make_body is None:
            return None
        types: dict[str, set[str]] = {}
        for owner in owners_of(self.model):
            for node in _nodes_of(owner, operator.domain, operator.name):
                for variable, dtype in types_of(operator, node).items():
                    types.setdefault(variable, set()).add(dtype)
        return ir.serde.deserialize_function(make_function(operator, opset, types))


def types_of(operator: Operator, node: ir.Node) -> dict[str, str]:
    """Return the names of the element types of a node by type variable, as far as they are known."""
    types: dict[str, str] = {}
    for formal, values in ((operator.inputs, node.inputs), (operator.outputs, node.outputs)):
        for parameter, value in zip(formal, values, strict=False):
            dtype = None if value is None else known_dtype(value)
            if dtype is not None:
                types.setdefault(parameter.type.name, element_type_name(dtype.value))
    return types


def node_like(
    like: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    domain: str = "",
    metadata_props: dict[str, str] | None = None,
    num_outputs: int = 1,
) -> ir.Node:
    """Make a node that carries the name and the doc string of another.

    Args:
        metadata_props: None for those of the other node.
    """
    return ir.node(
        op_type,
        inputs,
        attributes,
        domain=domain,
        num_outputs=num_outputs,
        name=like.name,
        doc_string=like.doc_string,
        metadata_props=dict(like.metadata_props) if metadata_props is None else metadata_props,
    )


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` replace ``old`` everywhere, with its name and all that is known of it."""
    new.name, old.name = old.name, None
    new.type, new.shape = old.type or new.type, old.shape or new.shape
    new.doc_string = old.doc_string
    new.meta.update(old.meta)  # quantisation annotations
    new.metadata_props.update(old.metadata_props)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def remove_dead(values: Sequence[ir.Value | None]) -> None:
    """Remove constants that are no longer needed, and the nodes that computed them."""
    pending = list(values)
    while pending:
        value = pending.pop()
        if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        node, graph = value.producer(), value.graph
        if graph is None:
            continue
        if value.is_initializer():
            assert value.name is not None
            del graph.initializers[value.name]
        elif node is not None and node.graph is not None and not any(map(is_used, node.outputs)):
            pending += node.inputs
            graph.remove(node, safe=True)


def is_used(value: ir.Value) -> bool:
    """Whether a node takes the value, or the graph returns it."""
    return bool(value.uses()) or value.is_graph_output()


def _nodes_of(owner: Owner, domain: str, name: str) -> list[ir.Node]:
    return [node for node in owner.graph.all_nodes() if (node.domain, node.op_type) == (domain, name)]


def _needed_version(node: ir.Node) -> int:
    """Return the version of its domain that a node of a registered operator needs."""
    attributes = {name: attribute.value for name, attribute in node.attributes.items() if not attribute.is_ref()}
    dtypes = [None if value is None else known_dtype(value) for value in node.inputs]
    names = [None if dtype is None else element_type_name(dtype.value) for dtype in dtypes]
    kit = registry.oldest(node.domain, node.op_type, attributes, names)
    return kit.operator.since_version if kit is not None else registry.newest_version(node.domain)


def _values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
