"""Turn a recorded function into an ONNX model, whose state has its first values inside."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import root_cause
from exporter.to_onnx.checks.node_counts import count_in_program
from exporter.to_onnx.dynamo import export_dynamo
from exporter.to_onnx.example_call import Example
from exporter.to_onnx.job import Job, check_value_names
from exporter.to_onnx.surroundings import prepared
from exporter.torch_ops.tensors import to_numpy
from exporter.training_step.trace import Traced


def make_model(traced: Traced, opset: int) -> onnx.ModelProto:
    """Return the ONNX model of a recorded function, with all its inputs. Raises: ExportError."""
    names, tensors = list(traced.inputs), tuple(traced.inputs.values())
    dim = torch.export.Dim("batch", min=1)
    shapes = tuple(dict.fromkeys(traced.axes[name], dim) or None for name in names)
    try:
        with prepared(traced.graph, None):
            program = torch.export.export(traced.graph, tensors, dynamic_shapes=shapes)
    except Exception as error:
        raise ExportError(f"torch.export cannot take the recorded step: {root_cause(error)}") from error
    example = Example(traced.graph, traced.graph, tensors, names, False)
    count = count_in_program(program)
    job = Job(example, program, opset, names, traced.outputs, traced.axes, count, training=True)
    with prepared(traced.graph, None):
        proto = export_dynamo(job)
    check_value_names(proto, names, traced.outputs)
    return proto


def set_first_values(proto: onnx.ModelProto, values: Mapping[str, Tensor], constants: Collection[str]) -> None:
    """Give inputs their first values, as initializers of their names; ``constants`` are inputs no more."""
    for name, value in values.items():
        proto.graph.initializer.append(numpy_helper.from_array(to_numpy(value), name))
    kept = [value for value in proto.graph.input if value.name not in constants]
    copies = onnx.GraphProto(input=kept)
    del proto.graph.input[:]
    proto.graph.input.extend(copies.input)
