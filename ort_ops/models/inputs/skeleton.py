"""Copy a model without its large weights, to infer names, shapes and order at the cost of the nodes alone."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from ort_ops.models.graphs import Scope, scopes_in
from ort_ops.opdef.onnx_objects import register_schemas

Dims = list[int | str | None]
_KEPT_NUMBERS = 1024  # elements of a tensor that shape inference may need, such as the shape that a Reshape takes


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
    register_schemas()
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton(model), data_prop=True)
    except Exception:  # onnx's inference raises errors of many types; keep what the file states
        inferred = model
    return dict(_stated_dims(inferred.graph))


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
    for scope in scopes_in(Scope(graph)):
        yield from ((name, list(shape)) for name, shape in scope.shapes.items())
