"""Turn a recorded function into an ONNX model, whose state has its first values inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx import helper, numpy_helper
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
from ort_ops.files.atomic import open_atomically
from ort_ops.rewrite.files import MAX_NBYTES_INSIDE, write_model


def make_model(traced: Traced, opset: int) -> onnx.ModelProto:
    """Return the ONNX model of a recorded function, with all its inputs. Raises: ExportError."""
    names, tensors = list(traced.inputs), tuple(traced.inputs.values())
    dims = {dim: torch.export.Dim(dim, min=1) for axes in traced.axes.values() for dim in axes.values()}
    shapes = tuple({axis: dims[dim] for axis, dim in traced.axes[name].items()} or None for name in names)
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


def store(proto: onnx.ModelProto, values: Mapping[str, Tensor], *, as_constants: bool = False) -> None:
    """Give inputs their first values, as initializers of their names; constants are inputs no more."""
    for name, value in values.items():
        proto.graph.initializer.append(numpy_helper.from_array(to_numpy(value), name))
    if as_constants:
        copies = onnx.GraphProto(input=[value for value in proto.graph.input if value.name not in values])
        del proto.graph.input[:]
        proto.graph.input.extend(copies.input)


@contextmanager
def first_values_stated(proto: onnx.ModelProto, first: Mapping[str, Tensor]) -> Iterator[None]:
    """State types and shapes of first values for the time of a check, without the values."""
    count = len(proto.graph.initializer)
    for name, value in first.items():
        data_type = helper.np_dtype_to_tensor_dtype(to_numpy(value[..., :0] if value.ndim else value).dtype)
        proto.graph.initializer.append(onnx.TensorProto(name=name, dims=value.shape, data_type=data_type))
    try:
        yield
    finally:
        del proto.graph.initializer[count:]


def are_large(values: Mapping[str, Tensor], nbytes: int = 0) -> bool:
    """Whether values, and a model of so many bytes, are too large for one message."""
    return sum(value.nbytes for value in values.values()) + nbytes > MAX_NBYTES_INSIDE


def write(models: Sequence[tuple[onnx.ModelProto, Mapping[str, Tensor], Path]], *, as_constants: bool = False) -> None:
    """Write models with the first values of their state, all or none.

    Values that are too large for one message lie beside their file.

    Args:
        as_constants: whether the values are constants, and inputs no more.

    Raises: OutputError.
    """
    with ExitStack() as stack:
        for proto, first, path in models:
            if not are_large(first, proto.ByteSize()):
                temporary = stack.enter_context(open_atomically(path))
                store(proto, first, as_constants=as_constants)
                onnx.save(proto, temporary)
                continue
            model = ir.from_proto(proto)
            inputs = {value.name: value for value in model.graph.inputs}
            for name, value in first.items():
                inputs[name].const_value = ir.tensor(to_numpy(value), name=name)
                model.graph.initializers.add(inputs[name])
                if as_constants:
                    model.graph.inputs.remove(inputs[name])
            write_model(model, path, external=True)
