"""Keep the results of onnx's shape inference apart from what the model itself states. No torch.

They serve to match patterns and are not written: a mistake of the inference would make onnxruntime refuse the
model.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ort_ops.opdef.onnx_objects import register_schemas

_INFERRED = "mylinear.inferred"
"""Key of a value's meta, which is never written."""
_MAX_NBYTES_READ = 1024
"""The inference sees larger tensors by type and shape only; no operator takes a shape from so many numbers."""


def infer_shapes(model: ir.Model) -> None:
    """Note dtype and shape of each value for `known_dtype` and `known_shape`, as far as onnx can infer them.

    In the main graph and in bodies; inside model-local functions onnx keeps nothing. The model stays as it is, and its
    weights are neither read nor copied. Where onnx cannot infer at all, nothing is noted.
    """
    register_schemas()
    try:
        inferred = onnx.shape_inference.infer_shapes(light_proto(model), data_prop=True)
    except Exception:  # a model that breaks an operator's rules, which onnx reports in many ways
        return
    _note(model.graph, inferred.graph)


def light_proto(model: ir.Model) -> onnx.ModelProto:
    """Return a model as a message, without the numbers of large tensors, which it says lie nowhere."""
    light = model.clone()
    for graph in light.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _without_numbers(value.const_value)
    for owner in (light.graph, *(function.graph for function in light.functions.values())):
        for node in owner.all_nodes():
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    # Not as_tensor(), which fails for a tensor of no type.
                    node.attributes[name] = ir.AttrTensor(name, _without_numbers(attribute.value))
    return ir.to_proto(light)


def known_shape(value: ir.Value) -> ir.Shape | None:
    """Return the value's shape as the model states it, or as it was inferred."""
    noted: tuple[ir.DataType | None, ir.Shape | None] = value.meta.get(_INFERRED, (None, None))
    return value.shape if value.shape is not None else noted[1]


def known_dtype(value: ir.Value) -> ir.DataType | None:
    """Return the value's dtype as the model states it, or as it was inferred."""
    noted: tuple[ir.DataType | None, ir.Shape | None] = value.meta.get(_INFERRED, (None, None))
    return value.dtype if value.dtype is not None else noted[0]


def _without_numbers(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor of that type and shape that, if it is large, is written as a reference to nowhere."""
    if tensor.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED) or tensor.nbytes <= _MAX_NBYTES_READ:
        return tensor
    assert isinstance(tensor.shape, ir.Shape)
    return ir.ExternalTensor("nowhere", None, None, tensor.dtype, shape=tensor.shape, name=tensor.name or "")


def _note(graph: ir.Graph, proto: onnx.GraphProto) -> None:
    """Keep the inferred types with the values of the graph; both have their nodes in the same order."""
    known = {value.name: value.type.tensor_type for value in (*proto.value_info, *proto.output)}
    for node, node_proto in zip(graph, proto.node, strict=True):
        for value in node.outputs:
            if value.name in known:
                value.meta[_INFERRED] = _read(known[value.name])
        bodies = {attribute.name: attribute for attribute in node_proto.attribute}
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                _note(attribute.as_graph(), bodies[name].g)


def _read(tensor_type: onnx.TypeProto.Tensor) -> tuple[ir.DataType | None, ir.Shape | None]:
    dtype = ir.DataType(tensor_type.elem_type) if tensor_type.elem_type else None
    if not tensor_type.HasField("shape"):
        return dtype, None
    sizes: list[int | str | None] = []
    for dim in tensor_type.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:  # onnx infers negative ones where a graph is wrong
            sizes.append(dim.dim_value)
        else:
            sizes.append(dim.dim_param or None)
    return dtype, ir.Shape(sizes)
