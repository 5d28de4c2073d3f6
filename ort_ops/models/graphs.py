"""The one walk over the graphs of a model: the main graph, the bodies of If, Loop and Scan, and local functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx

from ort_ops.opdef.shapes import Dim, Shape

NodeContainer = onnx.GraphProto | onnx.FunctionProto


@dataclass(frozen=True, eq=False)
class Scope:
    """One graph or function, and what is known of the values in it; everything is collected once.

    Attributes:
        where: the bodies and the function around it, in words, such as ``in then_branch of If 'branch'``; empty for the
            main graph.
        outer: the scope that a body stands in, whose names it may use; None for the main graph and for functions.
    """

    container: NodeContainer
    where: str = ""
    outer: Scope | None = None

    @cached_property
    def stored(self) -> dict[str, onnx.TensorProto]:
        """Stored tensors by value name: initializers, and the values of Constant nodes."""
        constants = [node for node in self.container.node if node.op_type == "Constant"]
        found = {node.output[0]: tensor for node in constants if (tensor := _constant(node)) is not None}
        if isinstance(self.container, onnx.GraphProto):
            for tensor in self.container.initializer:
                found[tensor.name] = tensor
        return found

    @cached_property
    def computed(self) -> set[str]:
        """The values that are not stored: inputs of the graph or function, and results of its nodes."""
        names = {name for node in self.container.node for name in node.output}
        if isinstance(self.container, onnx.GraphProto):
            names.update(value.name for value in self.container.input)
        else:
            names.update(self.container.input)
        return names - self.stored.keys()

    @cached_property
    def element_types(self) -> dict[str, int]:
        """Element types by value name, as far as the scope itself states them."""
        known = {name: tensor.data_type for name, tensor in self.stored.items()}
        for value in declared_values(self.container):
            if value.type.tensor_type.elem_type:
                known[value.name] = value.type.tensor_type.elem_type
        return known

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Shapes by value name, as far as the scope itself states them."""
        known: dict[str, Shape] = {name: list(tensor.dims) for name, tensor in self.stored.items()}
        for value in declared_values(self.container):
            shape = declared_shape(value)
            if shape is not None:
                known.setdefault(value.name, shape)
        return known

    def element_type_of(self, name: str) -> int | None:
        """Return the element type of a value of this scope or one around it, or None if none states it."""
        found = self.element_types.get(name)
        return found if found or self.outer is None else self.outer.element_type_of(name)

    def shape_of(self, name: str) -> Shape | None:
        """Return the shape of a value of this scope or one around it, or None if none states it."""
        found = self.shapes.get(name)
        return found if found is not None or self.outer is None else self.outer.shape_of(name)

    def tensor_of(self, name: str) -> onnx.TensorProto | None:
        """Return the stored tensor of this name, of this scope or one around it, or None for a computed value."""
        found = self.stored.get(name)
        return found if found is not None or self.outer is None else self.outer.tensor_of(name)

    @property
    def root(self) -> NodeContainer:
        """The main graph or the function that the scope is or belongs to."""
        return self.container if self.outer is None else self.outer.root


def bodies(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield the graphs inside a node with the names of the attributes that hold them."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        for graph in attribute.graphs:
            yield attribute.name, graph


def scopes(model: onnx.ModelProto) -> Iterator[Scope]:
    """Yield every graph and function of a model, each before the bodies inside it."""
    yield from scopes_in(Scope(model.graph))
    for function in model.functions:
        yield from function_scopes(function)


def function_scopes(function: onnx.FunctionProto) -> Iterator[Scope]:
    """Yield a model-local function and the bodies inside it."""
    yield from scopes_in(Scope(function, f"in function '{function.name}'"))


def scopes_in(scope: Scope) -> Iterator[Scope]:
    """Yield a scope and every body inside it; protobuf nests messages up to a depth of 31 bodies."""
    yield scope
    for node in scope.container.node:
        if node.attribute:
            yield from scopes_at(node, scope)


def scopes_at(node: onnx.NodeProto, scope: Scope) -> Iterator[Scope]:
    """Yield every body inside a node of a scope."""
    for name, graph in bodies(node):
        where = f"in {name} of {node.op_type} '{node_label(node)}' {scope.where}".rstrip()
        yield from scopes_in(Scope(graph, where, scope))


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node: of the main graph, of If/Loop/Scan bodies, and of model-local functions."""
    for scope in scopes(model):
        yield from scope.container.node


def nodes_in(container: NodeContainer) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph or function, and of the bodies inside it."""
    for scope in scopes_in(Scope(container)):
        yield from scope.container.node


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every stored tensor: initializers and attributes, of all graphs and functions."""
    for scope in scopes(model):
        yield from tensors_of(scope.container)


def tensors_of(container: NodeContainer) -> Iterator[onnx.TensorProto]:
    """Yield the initializers of one graph, and the tensors of its nodes' attributes; not those of the bodies inside."""
    if isinstance(container, onnx.GraphProto):
        yield from container.initializer
        for sparse in container.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in container.node:
        for attribute in node.attribute or ():
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def names_taken(node: onnx.NodeProto) -> set[str]:
    """Return the names of values that a node takes, with those that its bodies take, of the graph around it too."""
    names = {name for name in node.input if name}
    for _, body in bodies(node):
        for inner in body.node:
            names |= names_taken(inner)
        names.update(output.name for output in body.output)
    return names


def needed_nodes(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes, of some in order, that some outputs need; in their order."""
    wanted, found = set(outputs), []
    for node in reversed(list(nodes)):
        if wanted.intersection(node.output):
            found.append(node)
            wanted |= names_taken(node)
    return found[::-1]


def node_label(node: onnx.NodeProto) -> str:
    """Return a node's name, or its first output's where it has none, or its operator's where it has neither."""
    return node.name or next(filter(None, node.output), "") or node.op_type


def declared_values(container: NodeContainer) -> Iterator[onnx.ValueInfoProto]:
    """Yield the declarations of values of a graph or function."""
    yield from container.value_info
    if isinstance(container, onnx.GraphProto):
        yield from container.input
        yield from container.output


def declared_shape(value: onnx.ValueInfoProto) -> Shape | None:
    """Return the shape that a declaration states, or None."""
    tensor = value.type.tensor_type
    return [_dim(dim) for dim in tensor.shape.dim] if tensor.HasField("shape") else None


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None  # onnxruntime takes -1 for unknown
    return str(dim.dim_param) if dim.dim_param else None


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor of a Constant node, or None."""
    if node.domain not in ("", "ai.onnx") or not node.output:
        return None
    return next((attribute.t for attribute in node.attribute if attribute.HasField("t")), None)
