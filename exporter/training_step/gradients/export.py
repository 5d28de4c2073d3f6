"""Export the outputs of a model and their gradients as one ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor, nn

from exporter.errors import ExportError
from exporter.to_onnx.example_call import DynamicShapes, kind_of
from exporter.to_onnx.finish import finish
from exporter.to_onnx.surroundings import prepared
from exporter.to_onnx.versions import choose_opset
from exporter.torch_ops.kit import torch_kits
from exporter.training_step.gradients.check import check_gradients_file
from exporter.training_step.gradients.differentiate import Differentiated
from exporter.training_step.gradients.request import SCALAR, Request, make_differentiable_network, make_request
from exporter.training_step.gradients.result import GradientsExport
from exporter.training_step.graphs import are_large, make_model, store, write
from exporter.training_step.network import in_mode
from exporter.training_step.result import count_nodes
from exporter.training_step.trace import trace
from ort_ops.files.atomic import check_output
from ort_ops.models.graphs import all_nodes
from ort_ops.training.check import check_training
from ort_ops.training.file_format import GRADIENT, GRADIENTS, TrainingMetadata, put_metadata


def export_gradients(
    model: nn.Module,
    args: Tensor | Sequence[Any],
    path: str | Path,
    *,
    wrt: str | Sequence[str] | None = None,
    of: str | Sequence[str] | None = None,
    seed: str = SCALAR,
    kwargs: Mapping[str, Any] | None = None,
    opset: int | None = None,
    target: str | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_shapes: DynamicShapes | None = None,
) -> GradientsExport:
    """Write ``model`` as an ONNX file that returns its outputs, and their gradients by inputs or parameters.

    For forces, saliency, guidance, and products of a vector with the Jacobian. The file returns the outputs under
    their names, then ``<name>/grad`` for each name of ``wrt``, with the shape and dtype of that input or parameter.
    Parameters are constants of the file. It runs in any onnxruntime from 1.17 on, without custom kernels too, since
    registered operators bring their definitions; backwards of registered operators are nodes of their own.

    The model is differentiated in eval mode. It is left in the mode that it was in, and so are its gradients and
    ``requires_grad``: a frozen parameter may stand in ``wrt``. Before this returns, all outputs and gradients were
    compared with torch's, for the example's sizes and for larger ones.

    Args:
        model: a module, compiled or not.
        args: example input, or a tuple of the arguments of ``forward``, as `export` takes them.
        path: where to write; an existing file is replaced, and only by a complete one.
        wrt: names of inputs and parameters; by default all floating-point inputs. Each must have an effect: one that
            the outputs of ``of`` do not depend on is refused, and never given zeros.
        of: names of the outputs to differentiate; by default the only one. Of several, the sum is differentiated.
        seed: from what the gradient starts. ``scalar``: each output of ``of`` must be one number. ``sum``: the sum of
            its numbers is differentiated, so that each row of a batch gets its own gradient where rows do not
            influence each other. ``cotangent``: each has an input ``<output>/cotangent`` of its shape and dtype, and
            the file returns their products with the Jacobian.
        kwargs: further arguments by name. Arguments other than tensors become constants of the file.
        opset, target: as `export` takes them.
        input_names: by default ``x`` for one tensor by position, else names of forward's parameters, and keys within.
        output_names: by default ``y``, or ``y0``, ``y1``, ... where there are several.
        dynamic_shapes: ``{input name: {dimension: its name}}``; by default the first dimension of each input is
            ``batch`` where it is as long as that of the first. ``{}`` for none.

    Raises: ExportError, TargetError, OutputError.
    """
    if not isinstance(path, str | Path):
        hint = "; the call is export_gradients(model, args, path)" * isinstance(path, Tensor | tuple)
        raise ExportError(f"path must be the name of a file, got {kind_of(path)}{hint}")
    check_output(path)
    opset = choose_opset("dynamo", opset, target)
    torch_kits()  # each registers its operator with torch's exporter
    network = make_differentiable_network(model, args, kwargs, input_names, dynamic_shapes)
    with prepared(network.module, None), in_mode(network.module, training=False):
        request = make_request(network, wrt, of, seed, output_names)
        program = Differentiated(request)
        traced = trace(program, {**program.given, **network.state}, program)
        proto = make_model(traced, opset)
        constants = _drop_unread(proto, request)
        is_large = are_large(constants)
        if not is_large:
            store(proto, constants, as_constants=True)
        finish(proto, opset, {})
        metadata = _metadata(request)
        put_metadata(proto, metadata)
        check_training(_without_values(proto, constants) if is_large else proto, metadata)
        comparisons = check_gradients_file(request, traced, proto)
    write([(proto, constants if is_large else {}, Path(path))], as_constants=True)
    num_nodes, op_counts = count_nodes(proto)
    return GradientsExport(
        path=Path(path),
        metadata=metadata,
        opset=opset,
        ir_version=proto.ir_version,
        num_nodes=num_nodes,
        op_counts=op_counts,
        comparisons=comparisons,
    )


def _drop_unread(proto: onnx.ModelProto, request: Request) -> dict[str, Tensor]:
    """Take parameters and buffers that no node reads from the inputs of a graph; return the others by name."""
    read = {name for node in all_nodes(proto) for name in node.input} | {*request.wrt}
    read |= {output.name for output in proto.graph.output}
    state = request.network.state
    kept = onnx.GraphProto(input=[v for v in proto.graph.input if v.name in read or v.name not in state])
    del proto.graph.input[:]
    proto.graph.input.extend(kept.input)
    return {name: tensor for name, tensor in state.items() if name in read}


def _metadata(request: Request) -> TrainingMetadata:
    network = request.network
    return TrainingMetadata(
        kind=GRADIENTS,
        inputs=tuple(network.inputs),
        outputs=tuple(request.outputs),
        of=tuple(request.of),
        cotangents={cotangent: output for output, cotangent in request.cotangents.items()},
        gradients={name + GRADIENT: name for name in request.wrt},
        ranges=network.ranges,
    )


def _without_values(proto: onnx.ModelProto, constants: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Return what a file will say of inputs, outputs and constants, without the constants' values."""
    values = {value.name: value.type.tensor_type for value in proto.graph.input}
    shell = onnx.ModelProto(metadata_props=proto.metadata_props)
    shell.graph.input.extend(value for value in proto.graph.input if value.name not in constants)
    shell.graph.output.extend(proto.graph.output)
    for name, tensor in constants.items():
        shell.graph.initializer.add(name=name, dims=tensor.shape, data_type=values[name].elem_type)
    return shell
