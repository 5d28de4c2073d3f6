"""Export by torch's older exporter, ``torch.onnx.export(dynamo=False)``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper
from torch.onnx import TrainingMode

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.checks.node_counts import count_in_model
from exporter.to_onnx.checks.precision import check_casts
from exporter.to_onnx.example_call import PREFIX, output_dims
from exporter.to_onnx.job import Job
from exporter.to_onnx.surroundings import every_layer
from exporter.torch_ops.tensors import to_numpy
from ort_ops.models.files import load_model
from ort_ops.models.graphs import Scope, all_nodes
from ort_ops.opdef import registry
from ort_ops.opdef.onnx_objects import register_schemas


def export_torchscript(job: Job, file: Path | None = None) -> onnx.ModelProto:
    """Return the model, in ``file`` if one is given. Raises: ExportError."""
    buffer = io.BytesIO()
    mode: dict[str, Any] = {"training": TrainingMode.TRAINING, "do_constant_folding": False} if job.training else {}
    if versions := _versions(job):
        mode["custom_opsets"] = versions
    try:
        with every_layer():
            torch.onnx.export(
                job.example.model,
                tuple(tensor.clone() for tensor in job.example.tensors),  # a model may overwrite them
                str(file) if file else buffer,  # type: ignore[arg-type]  # documented to take a file object too
                dynamo=False,
                opset_version=job.opset,
                input_names=job.inputs,
                output_names=job.outputs,
                dynamic_axes={name: dict(dims) for name, dims in job.axes.items() if dims},
                **mode,
            )
    except Exception as error:
        hint = "; engine='dynamo' exports functions that are compiled" if "dynamo-optimized" in str(error) else ""
        raise ExportError(f"torch.onnx.export(dynamo=False) failed: {root_cause(error)}{hint}") from error
    proto = load_model(file, external_data=False) if file else onnx.load_model_from_string(buffer.getvalue())
    job.check_count(count_in_model(proto), has_inner_graphs=_has_inner_graphs(proto))
    check_casts(proto, job)
    if job.example.is_wrapped:
        _remove_prefix(proto)
    _restore_unused_inputs(proto, job)
    return _infer_shapes_anew(proto, job)


def _versions(job: Job) -> dict[str, int]:
    """Return the versions of the operators' domains that the model uses; the exporter takes 1 for the others."""
    domains = {op_type.rpartition("::")[0] for op_type in job.expected_nodes}
    return {domain: version for domain in domains if (version := registry.newest_version(domain)) > 1}


def _remove_prefix(proto: onnx.ModelProto) -> None:
    """Give the parameters the names that they have in the caller's model."""
    renamed = {}
    for tensor in proto.graph.initializer:
        if tensor.name.startswith(PREFIX):
            renamed[tensor.name] = tensor.name.removeprefix(PREFIX)
            tensor.name = renamed[tensor.name]
    for node in all_nodes(proto):
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def _restore_unused_inputs(proto: onnx.ModelProto, job: Job) -> None:
    """Add the inputs that no node reads, which torch leaves out: the graph takes what forward takes."""
    found = {value.name: onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in proto.graph.input}
    if list(found) != [name for name in job.inputs if name in found]:
        return  # an input was renamed; `check_value_names` says which
    del proto.graph.input[:]
    for name, tensor in zip(job.inputs, job.example.tensors, strict=True):
        proto.graph.input.append(found.get(name) or _value_of(name, tensor, job.axes[name]))


def _value_of(name: str, tensor: torch.Tensor, dims: Mapping[int, str]) -> onnx.ValueInfoProto:
    element_type = helper.np_dtype_to_tensor_dtype(to_numpy(tensor).dtype)
    shape = [dims.get(axis, size) for axis, size in enumerate(tensor.shape)]
    return helper.make_tensor_value_info(name, element_type, shape)


def _has_inner_graphs(proto: onnx.ModelProto) -> bool:
    return len(list(all_nodes(proto))) > len(proto.graph.node)


def _infer_shapes_anew(proto: onnx.ModelProto, job: Job) -> onnx.ModelProto:
    """Replace the TorchScript exporter's shapes, whose dimensions have made-up names, by onnx's own inference.

    Where that does not reach an output, its dimensions are found by running the model on other sizes.
    """
    register_schemas()
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except Exception:  # not every operator that torch writes can be inferred
        inferred = onnx.shape_inference.infer_shapes(proto)
    graph = Scope(inferred.graph)
    shapes = [graph.shape_of(output.name) for output in inferred.graph.output]
    if not all(shape is not None and None not in shape for shape in shapes):
        shapes = list(output_dims(job.example, job.inputs, job.axes))
    for output, shape in zip(inferred.graph.output, shapes, strict=True):
        assert shape is not None
        output.CopyFrom(helper.make_tensor_value_info(output.name, output.type.tensor_type.elem_type, shape))
    return inferred
