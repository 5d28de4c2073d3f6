"""Make the model that onnxruntime runs of a training file: bodies inlined, and nothing in it that nobody reads."""

from __future__ import annotations

import onnx
import onnx.inliner
import onnxruntime

from ort_ops.kernels import prepare
from ort_ops.kernels.register import Plan
from ort_ops.models.complete import complete_inputs
from ort_ops.models.graphs import names_taken, needed_nodes
from ort_ops.models.nodes import attach_functions, check_operator_nodes, has_function, operator_nodes
from ort_ops.training.file_format import FUNCTION_DOMAIN


def make_session_model(
    model: onnx.ModelProto, options: onnxruntime.SessionOptions, kernels: str
) -> tuple[onnx.ModelProto, Plan]:
    """Return the model to run, and the kernels that were registered with the options.

    onnxruntime does not remove what nobody reads of a body that it inlines itself, such as the gradient of an input.

    Args:
        model: without first values of its state; changed.

    Raises: ContractError, KernelError.
    """
    kept = [f for f in model.functions if f.domain != FUNCTION_DOMAIN]
    copies = onnx.ModelProto(functions=kept)
    del model.functions[:]
    model.functions.extend(copies.functions)
    nodes = check_operator_nodes(model)
    plan = prepare.plan_kernels(options, kernels, None, model, nodes)
    by_body = {name for name, provider in plan.providers.items() if provider.needs_functions}
    inlined = [found for found in nodes if found.operator.op_type in by_body]
    if any(found.lacks_input or found.lacks_output for found in inlined):
        complete_inputs(model)
    if not all(has_function(model, found.operator) for found in inlined):
        attach_functions(model)
    functions = [(f.domain, f.name) for f in model.functions if not _has_kernel(f, plan)]
    if functions:
        model = _inline(model, functions)
    prune(model)
    return model, plan


def prune(model: onnx.ModelProto) -> None:
    """Remove the nodes and initializers that no output needs, and names of outputs of operators that nobody reads."""
    graph = model.graph
    outputs = {value.name for value in graph.output}
    kept = needed_nodes(graph.node, outputs)
    needed = outputs.union(*map(names_taken, kept))
    for found in operator_nodes(model):
        if found.container is graph:
            for i, (parameter, name) in enumerate(zip(found.operator.outputs, found.outputs, strict=True)):
                if parameter.is_optional and name and name not in needed:
                    found.node.output[i] = ""
    copies = onnx.GraphProto(node=kept, initializer=[t for t in graph.initializer if t.name in needed])
    for field in ("node", "initializer"):
        graph.ClearField(field)
        getattr(graph, field).extend(getattr(copies, field))
    names = {name for node in graph.node for name in node.output}
    values = onnx.GraphProto(value_info=[value for value in graph.value_info if value.name in names])
    graph.ClearField("value_info")
    graph.value_info.extend(values.value_info)
    called = {(node.domain, node.op_type) for node in graph.node}
    if not any((f.domain, f.name) in called for f in model.functions):
        model.ClearField("functions")


def _has_kernel(function: onnx.FunctionProto, plan: Plan) -> bool:
    provider = plan.providers.get(f"{function.domain}::{function.name}")
    return provider is not None and not provider.needs_functions


def _inline(model: onnx.ModelProto, functions: list[tuple[str, str]]) -> onnx.ModelProto:
    """Inline functions; without the weights, which onnx would copy three times."""
    weights = onnx.GraphProto(initializer=model.graph.initializer)
    model.graph.ClearField("initializer")
    result: onnx.ModelProto = onnx.inliner.inline_selected_functions(model, functions)
    result.graph.initializer.extend(weights.initializer)
    return result
