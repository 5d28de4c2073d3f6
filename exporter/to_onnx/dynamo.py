"""Export by torch's newer exporter, ``torch.onnx.export(dynamo=True)``, and of exported programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.onnx._internal.exporter._errors import DispatchError

from exporter.errors import ExportError
from exporter.to_onnx.checks.agreement import last_cause, root_cause
from exporter.to_onnx.checks.node_counts import count_in_graphs
from exporter.to_onnx.example_call import PREFIX, DynamicShapes
from exporter.to_onnx.job import Job
from exporter.to_onnx.scalars import check_precision, computes_in_float64, exact_scalars, has_float64, translations
from exporter.to_onnx.simplify import simplify
from exporter.to_onnx.surroundings import every_layer
from ort_ops.models.files import load_model


def translate_exactly(job: Job) -> torch.onnx.ONNXProgram:
    """Return torch's translation, not simplified, with every call a node and no number rounded. Raises: ExportError."""
    program = None if job.gives_float64 or computes_in_float64(job.program) else _translate(job)
    if program is None or has_float64(program.model):
        with exact_scalars():
            program = _translate(job)
        check_precision(program)
    inner = sum(len(list(graph)) for graph in program.model.graphs()) > len(program.model.graph)
    job.check_count(count_in_graphs(program.model), has_inner_graphs=inner)
    return program


def export_dynamo(job: Job, file: Path | None = None) -> onnx.ModelProto:
    """Return the model, in ``file`` if one is given. Raises: ExportError."""
    program = translate_exactly(job)
    simplify(program.model)
    if job.program is not None:
        _name_dims(program, job)
    if job.example.is_wrapped:
        for value in list(program.model.graph.initializers.values()):
            if value.name is not None and value.name.startswith(PREFIX):
                value.name = value.name.removeprefix(PREFIX)
    if file is None:
        return program.model_proto
    program.save(file, external_data=True)
    return load_model(file, external_data=False)


def _translate(job: Job) -> torch.onnx.ONNXProgram:
    dims = tuple(dict(job.axes[name]) or None for name in job.inputs)
    try:
        with every_layer():
            program = torch.onnx.export(
                job.program or job.example.model,
                () if job.program else job.example.tensors,
                dynamo=True,
                opset_version=job.opset,
                input_names=job.inputs,
                output_names=job.outputs,
                dynamic_shapes=None if job.program else (dims,) if job.example.is_wrapped else dims,
                custom_translation_table=translations(),
                optimize=False,  # it would merge equal calls, and every call must be counted
                verbose=False,
            )
    except Exception as error:
        cause = root_cause(error)
        hint = "; name in dynamic_shapes only dimensions that may change, {} for none" * ("static shape" in cause)
        if isinstance(last_cause(error), DispatchError):
            hint += "; write that operation in others, which have a translation"
        raise ExportError(f"torch.onnx.export(dynamo=True) failed: {cause}{hint}") from error
    assert program is not None
    return program


def _name_dims(program: Any, job: Job) -> None:
    """Give an exported program's dimensions their names; torch calls them s0, s1, and so on."""
    names = {}
    for value, name in zip(program.model.graph.inputs, job.inputs, strict=True):
        for dim, wanted in job.axes[name].items():
            if value.shape is not None and not isinstance(value.shape[dim], int):
                names[value.shape[dim]] = wanted
    program.rename_axes(names)


def symbolic_only(
    program: torch.export.ExportedProgram, inputs: list[str], axes: DynamicShapes
) -> dict[str, dict[int, str]]:
    """Keep the dimensions that are dynamic in the exported program; the others are fixed in it."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [v for name in program.graph_signature.user_inputs if isinstance(v := values.get(str(name)), Tensor)]
    return {
        name: {dim: label for dim, label in axes[name].items() if not isinstance(tensor.shape[dim], int)}
        for name, tensor in zip(inputs, tensors, strict=True)
    }
