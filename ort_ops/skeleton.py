"""A model without its large weights: what names, shapes and order can be read from, at the cost of the nodes alone."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import onnx

from ort_ops.contract import MYLINEAR
from ort_ops.model import ModelError

Dims = list[int | str | None]
_KEPT_NUMBERS = 1024  # of a tensor whose values shape inference may need, such as the shape that a Reshape takes


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose large initializers have type and shape but no values. Weights of Constant nodes stay."""
    bare = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            _copy_graph(model.graph, bare.graph)
        elif hasattr(value, "extend"):
            getattr(bare, field.name).extend(value)
        else:
            setattr(bare, field.name, value)
    return bare


def infer_dims(model: onnx.ModelProto) -> dict[str, Dims]:
    """Return the shape of every value of the main graph and its bodies, as far as it can be inferred.

    A dimension is a size, the name of a dynamic one, or None.
    """
    MYLINEAR.register_schema()
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton(model), data_prop=True)
    except Exception:  # onnx's inference raises errors of many types; what the file states is left
        inferred = model
    return dict(_stated_dims(inferred.graph))


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes of a graph and its bodies into an order in which each comes after those that it needs, in place.

    ONNX demands that order, onnxruntime does not, and converters append nodes at the end. Nodes that are in order
    stay as they are. Raises: ModelError for a cycle.
    """
    for node in graph.node:
        for body in bodies(node):
            sort_nodes(body)
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [
        {makers[name] for name in needed(node) if name in makers and makers[name] != index}
        for index, node in enumerate(graph.node)
    ]
    if all(source < index for index, sources in enumerate(needs) for source in sources):
        return
    waiting = [len(sources) for sources in needs]
    users: list[list[int]] = [[] for _ in needs]
    for index, sources in enumerate(needs):
        for source in sources:
            users[source].append(index)
    ready = [index for index, count in enumerate(waiting) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    if len(order) < len(needs):
        stuck = graph.node[next(index for index, count in enumerate(waiting) if count)]
        raise ModelError(f"the graph has a cycle: node '{stuck.name or stuck.output[0]}' needs its own result")
    nodes = [graph.node[index] for index in order]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in a node's attributes, in their order."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def needed(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the values that a node takes, from around it too where it has bodies."""
    yield from (name for name in node.input if name)
    for body in bodies(node):
        for inner in body.node:
            yield from needed(inner)
        yield from (output.name for output in body.output)


def _copy_graph(graph: onnx.GraphProto, bare: onnx.GraphProto) -> None:
    for field, value in graph.ListFields():
        if field.name == "initializer":
            for tensor in value:
                _copy_tensor(tensor, bare.initializer.add())
        elif hasattr(value, "extend"):
            getattr(bare, field.name).extend(value)
        else:
            setattr(bare, field.name, value)


def _copy_tensor(tensor: onnx.TensorProto, bare: onnx.TensorProto) -> None:
    count = 1
    for size in tensor.dims:
        count *= size
    if count <= _KEPT_NUMBERS and tensor.data_location != onnx.TensorProto.EXTERNAL:
        bare.CopyFrom(tensor)
        return
    bare.name, bare.data_type = tensor.name, tensor.data_type
    bare.dims.extend(tensor.dims)


def _stated_dims(graph: onnx.GraphProto) -> Iterator[tuple[str, Dims]]:
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            yield value.name, [_dim(dim) for dim in value.type.tensor_type.shape.dim]
    for tensor in graph.initializer:
        yield tensor.name, list(tensor.dims)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield node.output[0], list(attribute.t.dims)
        for body in bodies(node):
            yield from _stated_dims(body)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None
