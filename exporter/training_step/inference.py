"""The model in eval mode, as a function of the file that nothing calls: what a trainer makes the trained model of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir
import torch
from onnx import helper

from exporter.errors import ExportError
from exporter.to_onnx.dynamo import translate_exactly
from exporter.to_onnx.example_call import PREFIX, flatten_outputs, is_plain_output, make_example
from exporter.to_onnx.finish import finish
from exporter.to_onnx.job import Job, check_value_names, default_output_names
from exporter.to_onnx.simplify import simplify
from exporter.torch_ops.counting import count_calls
from exporter.training_step.graphs import store
from exporter.training_step.network import Network, kept_buffers
from ort_ops.models.nodes import definitions, domain_version, import_oldest_versions
from ort_ops.opdef.onnx_objects import make_function
from ort_ops.opdef.operator import Operator
from ort_ops.training.file_format import FUNCTION_DOMAIN

NAME = "Inference"


@dataclass(frozen=True)
class Inference:
    """The model in eval mode.

    Attributes:
        proto: a model of its own, whose parameters and buffers are inputs.
        state: names of the parameters and buffers that it reads.
        inputs: names of its other inputs.
    """

    proto: onnx.ModelProto
    state: list[str]
    inputs: list[str]


def make_inference(network: Network, opset: int) -> Inference:
    """Export the model in eval mode, which it is in, and compare it with torch. Raises: ExportError."""
    tensors = network.tensors[: len(network.inputs)]
    example = replace(network.call, tensors=tensors)
    with torch.no_grad(), kept_buffers(network.module), count_calls() as calls:
        raw = example.call(*example.tensors)
    if not is_plain_output(raw) and not example.is_wrapped:
        example = make_example(network.model, tensors, None, must_wrap=True)
    outputs = flatten_outputs(raw)
    names = default_output_names(len(outputs), {*network.inputs, *network.state})
    axes = {name: network.axes[name] for name in network.inputs}
    gives_float64 = any(output.dtype == torch.float64 for output in outputs)
    job = Job(example, None, opset, network.inputs, names, axes, calls, training=False, gives_float64=gives_float64)
    model = translate_exactly(job).model
    _make_inputs(model, network, is_wrapped=example.is_wrapped)
    simplify(model)
    proto = ir.to_proto(model)
    state = [value.name for value in proto.graph.input if value.name in network.state]
    check_value_names(proto, [*network.inputs, *state], names)
    finish(proto, opset, {})
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    store(whole, {name: network.state[name] for name in state}, as_constants=True)
    job.compare(whole)
    return Inference(proto, state, network.inputs)


def _make_inputs(model: ir.Model, network: Network, *, is_wrapped: bool) -> None:
    """Turn parameters and buffers into inputs, before equal ones are merged: training will make them differ."""
    made: dict[str, ir.Value] = {}
    for key in list(model.graph.initializers):
        value = model.graph.initializers.pop(key)
        name = network.aliases.get(key if is_wrapped else f"{PREFIX}{key}")
        if name is None:
            model.graph.initializers.add(value)
            continue
        if name in made:
            value.replace_all_uses_with(made[name])
            continue
        value.name, value.const_value = name, None
        model.graph.inputs.append(value)
        made[name] = value


def add_function(proto: onnx.ModelProto, inference: Inference) -> None:
    """Put the model in eval mode into a training file, with the definitions of operators that it calls."""
    graph = inference.proto.graph
    constants = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in graph.initializer
        if tensor.name not in inference.state
    ]
    function = helper.make_function(
        FUNCTION_DOMAIN,
        NAME,
        [*inference.state, *inference.inputs],
        [output.name for output in graph.output],
        [*constants, *graph.node],
        inference.proto.opset_import,
        value_info=[*graph.input, *graph.output],
    )
    _add_definitions(proto, inference.proto)
    proto.functions.append(function)
    imported = {entry.domain for entry in proto.opset_import}
    for entry in (*inference.proto.opset_import, helper.make_opsetid(FUNCTION_DOMAIN, 1)):
        if entry.domain not in imported:
            proto.opset_import.add(domain=entry.domain, version=entry.version)
    import_oldest_versions(proto)  # training may need an older one of a domain than eval mode


def _add_definitions(proto: onnx.ModelProto, other: onnx.ModelProto) -> None:
    """Add the definitions that another model has, and widen those that both have to the element types of both."""
    own = {(function.domain, function.name): function for function in proto.functions}
    for function in other.functions:
        key = function.domain, function.name
        if key not in own:
            proto.functions.append(function)
        elif own[key] != function:
            parts = [
                found
                for model in (proto, other)
                for found in definitions(model)
                if (found[0].domain, found[0].name) == key
            ]
            if not parts:
                raise ExportError(f"function '{key[0]}::{key[1]}' differs between training and eval mode")
            newest = max((operator for operator, _ in parts), key=lambda operator: operator.since_version)
            own[key].CopyFrom(make_function(newest, domain_version(proto, ""), _types_of(newest, parts)))


def _types_of(newest: Operator, parts: Sequence[tuple[Operator, Mapping[str, set[str]]]]) -> dict[str, set[str]]:
    """Return the element types of an operator's variables, from those of several versions of it."""
    both: dict[str, set[str]] = {}
    for operator, types in parts:
        variables = {p.name: p.type.name for p in (*operator.inputs, *operator.outputs)}
        for parameter in (*newest.inputs, *newest.outputs):
            if parameter.name in variables:
                both.setdefault(parameter.type.name, set()).update(types.get(variables[parameter.name], ()))
    return both
